"""A random projection of equal rank: the control that tells what the learned subspace is worth."""

from __future__ import annotations

import torch
from pydantic import Field

from seka_rag.bank import ProjectionBank
from seka_rag.hf.sites import KeySites
from seka_rag.ops.keys import KeyEdit, plan_edit
from seka_rag.ops.projection import keep_columns
from seka_rag.steering.key_editing import KeyEditing


class RandomProjection(KeyEditing):
    """SEKA with random subspaces of the same ranks on the same heads, by the same strengths.

    Attributes:
        gain: g; negative values turn attention away.
        seed: which random subspaces.
    """

    gain: float = Field(default=1.0, allow_inf_nan=False)
    seed: int = 0

    def edits(self, bank: ProjectionBank, sites: KeySites) -> dict[int, KeyEdit]:
        edits, strengths = {}, bank.head_strengths
        for layer in self.chosen(bank):
            generator = torch.Generator().manual_seed(self.seed * 10_007 + layer)
            noise = torch.randn(bank.model.heads, bank.model.head_dim, bank.model.head_dim, generator=generator)
            ranks = bank.ranks[layer]
            factors = keep_columns(torch.linalg.qr(noise)[0], torch.zeros_like(ranks), ranks)
            edit = plan_edit(factors, self.gain, strengths=strengths[layer])
            if edit is not None:
                edits[layer] = edit
        return edits
