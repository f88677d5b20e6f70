"""PRISM: subspaces of what tells relevant from irrelevant, softly weighted heads, an edit of values beside that of keys."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from seka_rag.bank import ProjectionBank
from seka_rag.errors import BankError
from seka_rag.hf.sites import KeySites
from seka_rag.ops.keys import KeyEdit, KeyValueEdit
from seka_rag.ops.projection import projection
from seka_rag.steering.key_editing import KeyEditing


class Prism(KeyEditing):
    """Projection-based relevance-informed steering (arXiv 2603.10705), written from the paper.

        k' = k + g   softplus(gap - d)   P   k
        v' = v + g_v softplus(gap_v - d) P_v v        (only where ``gain_value`` is not 0)

    P spans the directions in which relevant keys differ from irrelevant ones: learn the bank with ``difference=True``, and
    with ``values=True`` for P_v. Any other bank is taken as it is. No head is cut off by a threshold: its gap weighs it.

    Attributes:
        gain: g of keys (0.4 in the paper, 2.5 on CounterFact); negative values turn attention away.
        gain_value: g_v of values (0.1 in the paper).
        delta: d, the gap from which heads begin to count (0.08 in the paper).
    """

    gain: float = Field(default=0.4, allow_inf_nan=False)
    gain_value: float = Field(default=0.0, allow_inf_nan=False)
    delta: float = Field(default=0.08, allow_inf_nan=False)

    @property
    def strengths(self) -> tuple[float, ...]:
        return self.gain, self.gain_value

    def edits(self, bank: ProjectionBank, sites: KeySites) -> Mapping[int, KeyEdit]:
        """See KeyEditing.

        Raises:
            BankError: ``gain_value`` with a bank that was learned without values.
        """
        if self.gain_value and not bank.values:
            raise BankError(
                "gain_value is set, but this bank holds no subspaces of values; learn it with values=True, or use gain_value=0"
            )
        edits: dict[int, KeyEdit] = {}
        for layer in self.chosen(bank):
            keys = self._matrices(bank.positive[layer], self.gain, bank.gap[layer])
            if not self.gain_value:
                heads = keys.any(-1).any(-1).nonzero().flatten()
                edits[layer] = KeyEdit(heads, keys[heads])
                continue
            values = self._matrices(bank.values[layer], self.gain_value, bank.value_gap[layer])
            heads = (keys.any(-1) | values.any(-1)).any(-1).nonzero().flatten()
            edits[layer] = KeyValueEdit(heads, keys[heads], values=KeyEdit(heads, values[heads]))
        return {layer: edit for layer, edit in edits.items() if len(edit.heads)}

    def _matrices(self, factors: Tensor, gain: float, gap: Tensor) -> Tensor:
        """``[H, D, R]`` factors and ``[H]`` gaps -> ``[H, D, D]``, zero for a head without factors."""
        return (gain * softplus(gap - self.delta))[:, None, None] * projection(factors)
