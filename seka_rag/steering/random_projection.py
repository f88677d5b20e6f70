"""A random projection of equal rank: the control that tells what the learned subspace is worth."""

from __future__ import annotations

import torch

from seka_rag.bank import ProjectionBank
from seka_rag.ops.projection import KeyEdit, plan_edit
from seka_rag.steering.base import KeySteering


class RandomProjection(KeySteering):
    """SEKA with random subspaces of the same ranks on the same heads.

    Attributes:
        seed: which random subspaces.
    """

    seed: int = 0

    def edits(self, bank: ProjectionBank) -> dict[int, KeyEdit]:
        edits = {}
        for layer in self.chosen(bank):
            generator = torch.Generator().manual_seed(self.seed * 10_007 + layer)
            noise = torch.randn(bank.model.heads, bank.model.head_dim, bank.model.head_dim, generator=generator)
            kept = torch.arange(bank.model.head_dim) < bank.ranks[layer][:, None]
            edit = plan_edit(torch.linalg.qr(noise)[0] * kept[:, None, :], self.gain)
            if edit is not None:
                edits[layer] = edit
        return edits
