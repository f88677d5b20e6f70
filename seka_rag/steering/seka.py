"""SEKA: amplify the part of a highlighted key that lies in the learned relevance subspace."""

from __future__ import annotations

from pydantic import Field

from seka_rag.bank import ProjectionBank
from seka_rag.errors import BankError
from seka_rag.hf.sites import KeySites
from seka_rag.ops.keys import KeyEdit, plan_edit
from seka_rag.steering.key_editing import KeyEditing


class Seka(KeyEditing):
    """Spectral Editing Key Amplification (arXiv 2603.01281, eq. 6).

        k' = k + g+ P+ k                       without a negative part
        k' = k + (g+ P+ k + g- P- k) / 2       with one (``gain_neg`` not 0)

    Each head's edit is multiplied by the strength that the bank has for it, if it has strengths.

    Attributes:
        gain: g+; negative values turn attention away.
        gain_neg: g-. 0 means no negative part and leaves g+ whole. (The authors' code halves g+ as soon as a negative
            file is given: its "1.56, 0" is a gain of 0.78 here.)
    """

    gain: float = Field(default=1.0, allow_inf_nan=False)
    gain_neg: float = Field(default=0.0, allow_inf_nan=False)

    @property
    def strengths(self) -> tuple[float, ...]:
        return self.gain, self.gain_neg

    def edits(self, bank: ProjectionBank, sites: KeySites) -> dict[int, KeyEdit]:
        """See KeyEditing.

        Raises:
            BankError: ``gain_neg`` with a bank that has no negative part.
        """
        if self.gain_neg and not bank.negative:
            raise BankError("gain_neg is set, but this bank has no negative part; learn it with negative=True")
        strengths = bank.head_strengths
        planned = {
            layer: plan_edit(bank.positive[layer], self.gain, bank.negative.get(layer), self.gain_neg, strengths[layer])
            for layer in self.chosen(bank)
        }
        return {layer: edit for layer, edit in planned.items() if edit is not None}
