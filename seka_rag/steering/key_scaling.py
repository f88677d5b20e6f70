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

    If the bank has strengths, they choose the heads and multiply the gain.

    Attributes:
        gain: g; negative values turn attention away.
    """

    gain: float = Field(default=1.0, allow_inf_nan=False)

    def edits(self, bank: ProjectionBank, sites: KeySites) -> dict[int, KeyEdit]:
        edits, strengths = {}, bank.head_strengths
        for layer in self.chosen(bank):
            heads = strengths[layer].nonzero().flatten()
            if len(heads):
                gains = self.gain * strengths[layer][heads]
                edits[layer] = KeyEdit(heads, gains[:, None, None] * torch.eye(bank.model.head_dim))
        return edits
