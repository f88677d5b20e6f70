"""Which heads are steered: by relevance gap, by share, by quantile, or by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seka_rag.errors import BankError, SettingError

#: A gap below this is none at all. Layer 0 has it by construction: before rotary positions its keys depend on the
#: token alone, so no question can change them, and it is never steered.
NO_GAP = 1e-6


@dataclass(frozen=True)
class HeadChoice:
    """One rule, or none (every head that has a gap). No rule but ``heads`` chooses a head without a gap.

    Attributes:
        min_gap: heads whose relevance gap (mean l2 over tokens, as in the paper) is at least this. Absolute gaps differ
            from model to model.
        best: this share of all heads, those of the largest gap, in (0, 1].
        quantile: heads whose gap is at least this quantile of the gaps of all heads that have one, in [0, 1).
        heads: exactly these heads, each ``(layer, head)``.

    Raises:
        SettingError: more than one rule, or a value that means nothing.
    """

    min_gap: float | None = None
    best: float | None = None
    quantile: float | None = None
    heads: Sequence[tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        given = [name for name in self.__dataclass_fields__ if getattr(self, name) is not None]
        if len(given) > 1:
            raise SettingError(f"give one of min_gap, best, quantile and heads, not {' and '.join(given)}")
        if self.min_gap is not None and not 0 <= self.min_gap < float("inf"):
            raise SettingError(f"min_gap={self.min_gap}: give a finite gap of at least 0")
        if self.best is not None and not 0 < self.best <= 1:
            raise SettingError(f"best={self.best}: give a share in (0, 1]")
        if self.quantile is not None and not 0 <= self.quantile < 1:
            raise SettingError(f"quantile={self.quantile}: give a number in [0, 1)")
        if self.heads is not None and not self.heads:
            raise SettingError("heads is empty: name at least one (layer, head)")

    def __str__(self) -> str:
        if self.min_gap is not None:
            return f"gap >= {self.min_gap:g}"
        if self.best is not None:
            return f"best {self.best:.0%}"
        if self.quantile is not None:
            return f"gap >= quantile {self.quantile:g}"
        return "all with a gap" if self.heads is None else f"{len(set(self.heads))} by name"

    def choose(self, gap: Tensor, of: int) -> Tensor:
        """Gaps ``[L, H]`` -> chosen heads, bool ``[L, H]``.

        Args:
            of: how many heads ``best`` is a share of: not L H in a hybrid, which has layers without keys.

        Raises:
            SettingError: a named head that the model lacks.
        """
        kept = gap > NO_GAP
        if self.heads is not None:
            kept = torch.zeros_like(kept)
            for layer, head in self.heads:
                if not (0 <= layer < gap.shape[0] and 0 <= head < gap.shape[1]):
                    raise SettingError(
                        f"head ({layer}, {head}): the model has {gap.shape[0]} layers of {gap.shape[1]} heads"
                    )
                kept[layer, head] = True
        elif self.min_gap is not None:
            kept &= gap >= self.min_gap
        elif self.best is not None:
            count = max(1, round(self.best * of))
            kept &= gap >= gap.flatten().sort(descending=True).values[count - 1]
        elif self.quantile is not None and kept.any():
            kept &= gap >= gap[kept].quantile(self.quantile)
        return kept


def select_heads(gap: Tensor, held: Tensor, rule: HeadChoice, of: int, layers: Sequence[int] | None = None) -> Tensor:
    """The heads of an existing bank that a rule chooses in some layers.

    Args:
        gap: ``[L, H]``.
        held: bool ``[L, H]``, the heads that the bank has subspaces for.
        of: as in ``HeadChoice.choose``.
        layers: layer ids; None for all.

    Returns:
        bool ``[L, H]``, at least one of them.

    Raises:
        BankError: a layer or head that the bank does not hold, or none is left.
    """
    if missing := sorted(set(layers or ()) - set(held.any(1).nonzero().flatten().tolist())):
        raise BankError(
            f"layers {missing} were asked for; the bank has layers {held.any(1).nonzero().flatten().tolist()}"
        )
    chosen = held.clone() if rule == HeadChoice() else rule.choose(gap, of)
    if layers is not None:
        chosen &= torch.isin(torch.arange(len(gap)), torch.tensor(sorted(layers), dtype=torch.long))[:, None]
    if lacking := (chosen & ~held).nonzero().tolist():
        raise BankError(
            f"the bank holds nothing for {len(lacking)} of the heads chosen, such as {tuple(lacking[0])}: they were not kept "
            "when it was learned. Learn it again with this rule"
        )
    if not chosen.any():
        raise BankError(f"no head is left by {str(rule)!r}; the largest relevance gap is {gap.max():.4g}")
    return chosen
