"""Edits that multiply keys, or values, by a matrix: SEKA, PRISM, key scaling and random projections."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seka_rag.ops.edits import Edit, Part, at_tokens, with_tokens
from seka_rag.ops.projection import projection


@dataclass(frozen=True, eq=False)
class KeyEdit(Edit):
    """One layer's edit ``k' = k + w k M`` on some heads, dense or as low-rank factors, gain included.

    Attributes:
        down, up: ``[h, D, r]`` and ``[h, r, D]`` with ``M = down @ up``; ``up`` is None where ``down`` is ``M`` itself.
    """

    down: Tensor
    up: Tensor | None = None

    def apply(self, keys: Tensor, part: Part, state: Tensor | None = None) -> Tensor:
        index, old = at_tokens(keys, part, self.heads)
        weights = part.weights[:, None]
        if self.up is None:
            new = torch.baddbmm(old, old * weights, self.down)
        else:  # weights go where they are fewest
            new = torch.baddbmm(old, torch.bmm(old, self.down) * weights, self.up)
        return with_tokens(keys, index, new)

    def scaled(self, strengths: Tensor) -> KeyEdit:
        return KeyEdit(self.heads, self.down * strengths[:, None, None], self.up)

    def of_heads(self, held: range) -> KeyEdit:
        kept = self.kept(held)
        return KeyEdit(self.heads[kept] - held.start, self.down[kept], None if self.up is None else self.up[kept])


@dataclass(frozen=True, eq=False)
class KeyValueEdit(KeyEdit):
    """``KeyEdit`` that edits the values of the same tokens, too.

    Attributes:
        values: the edit of the values, on the same heads.
    """

    values: KeyEdit | None = None

    @property
    def of_values(self) -> KeyEdit | None:
        return self.values

    def scaled(self, strengths: Tensor) -> KeyValueEdit:
        values = None if self.values is None else self.values.scaled(strengths)
        return replace(self, down=self.down * strengths[:, None, None], values=values)

    def of_heads(self, held: range) -> KeyValueEdit:
        keys = super().of_heads(held)
        return KeyValueEdit(keys.heads, keys.down, keys.up, None if self.values is None else self.values.of_heads(held))


def plan_edit(
    positive: Tensor,
    gain: float,
    negative: Tensor | None = None,
    gain_neg: float = 0.0,
    strengths: Tensor | None = None,
) -> KeyEdit | None:
    """The edit of one layer from its factors, in whichever form costs less.

        SEKA                k' = k + g+ P+ k
        SEKA, two-sided     k' = k + (g+ P+ k + g- P- k) / 2        (only when g- is not 0)

    Args:
        positive, negative: orthonormal factors ``[H, D, R]``; a head whose factors are zero is left alone.
        gain, gain_neg: g+ and g-.
        strengths: ``[H]`` by which the edit of each head is multiplied; a head at 0 is left alone. None for 1 everywhere.

    Returns:
        The edit, or None if no head is edited.
    """
    two_sided = negative is not None and gain_neg != 0.0
    strengths = torch.ones(len(positive)) if strengths is None else strengths
    live = positive.abs().amax((1, 2)) > 0 if positive.shape[-1] else torch.zeros(len(positive), dtype=torch.bool)
    chosen = (live & (strengths != 0)).nonzero().flatten()
    if not len(chosen) or (gain == 0.0 and not two_sided):
        return None
    factor = positive[chosen].float()
    _, d, r = factor.shape
    if two_sided:
        assert negative is not None
        both = gain * projection(factor) + gain_neg * projection(negative[chosen].float())
        edit = KeyEdit(chosen, both / 2)
    elif 2 * r < d:  # two thin products cost less than one [D, D] product
        edit = KeyEdit(chosen, factor, gain * factor.transpose(-1, -2))
    else:
        edit = KeyEdit(chosen, gain * projection(factor))
    return edit.scaled(strengths[chosen])
