"""What a bank is to be like: how much of the keys it holds, and which heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from seka_rag.bank.heads import HeadChoice
from seka_rag.errors import SettingError


@dataclass(frozen=True)
class LearningSettings:
    """Settings of ``learn_bank``, ``learn_experts`` and ``bank_from_statistics``.

    Attributes:
        energy: share of the singular values that a head's subspace holds, in (0, 1].
        min_gap, best, quantile, heads: which heads to keep, by one rule of ``HeadChoice``: a least relevance gap, the best
            share of all heads, a quantile, or a list of ``(layer, head)``. Without one, every head that has a gap.
        negative: also learn the negative part ``P-``.
        difference: subspaces of ``Omega+ - Omega-``, what tells relevant from irrelevant, as PRISM wants them; else of
            ``Omega+``, as SEKA.
        values: also learn subspaces of values, of the same heads, likewise.
        suggested_gain: stored in the bank as the gain to start from.

    Raises:
        SettingError: two rules for heads, or a value that means nothing.
    """

    energy: float = 0.9
    min_gap: float | None = None
    best: float | None = None
    quantile: float | None = None
    heads: Sequence[tuple[int, int]] | None = None
    negative: bool = False
    suggested_gain: float = 0.5
    difference: bool = False
    values: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.energy <= 1:
            raise SettingError(f"energy={self.energy}: give a share in (0, 1]")
        if not abs(self.suggested_gain) < float("inf"):
            raise SettingError(f"suggested_gain={self.suggested_gain}: give a finite gain")
        HeadChoice(self.min_gap, self.best, self.quantile, self.heads)

    @property
    def rule(self) -> HeadChoice:
        """The rule for heads."""
        return HeadChoice(self.min_gap, self.best, self.quantile, self.heads)

    @classmethod
    def of(cls, settings: LearningSettings | None, options: Mapping[str, Any]) -> LearningSettings:
        """Settings with some of them given by name.

        Raises:
            SettingError: a name that is none of them.
        """
        known = [f.name for f in fields(cls)]
        for name in options:
            if name not in known:
                near = get_close_matches(name, known, 1)
                raise SettingError(
                    f"unknown setting {name!r}: "
                    + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}")
                )
        return replace(settings or cls(), **options)
