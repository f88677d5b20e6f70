"""Plain key scaling: the control without a subspace."""

from __future__ import annotations

import torch

from seka_rag.bank import ProjectionBank
from seka_rag.ops.projection import KeyEdit
from seka_rag.steering.base import KeySteering


class KeyScaling(KeySteering):
    """``k' = (1 + g) k`` on the heads that the bank keeps. Its relative edit norm is exactly ``g``."""

    def edits(self, bank: ProjectionBank) -> dict[int, KeyEdit]:
        if self.gain == 0:
            return {}
        edits = {}
        for layer in self.chosen(bank):
            heads = bank.ranks[layer].nonzero().flatten()
            if len(heads):
                edits[layer] = KeyEdit(heads, self.gain * torch.eye(bank.model.head_dim).repeat(len(heads), 1, 1))
        return edits
