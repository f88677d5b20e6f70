"""Plain key scaling: the control without a subspace."""

from __future__ import annotations

import torch
from pydantic import Field

from seka_rag.bank import ProjectionBank
from seka_rag.hf.sites import KeySites
from seka_rag.ops.keys import KeyEdit
from seka_rag.steering.key_editing import KeyEditing


class KeyScaling(KeyEditing):
    """``k' = (1 + g) k`` on the heads that the bank keeps. Its relative edit norm is exactly ``g``.

    Attributes:
        gain: g; negative values turn attention away.
    """

    gain: float = Field(default=1.0, allow_inf_nan=False)

    def edits(self, bank: ProjectionBank, sites: KeySites) -> dict[int, KeyEdit]:
        edits = {}
        for layer in self.chosen(bank):
            heads = bank.ranks[layer].nonzero().flatten()
            if len(heads):
                edits[layer] = KeyEdit(heads, self.gain * torch.eye(bank.model.head_dim).repeat(len(heads), 1, 1))
        return edits
