"""From key covariances to subspaces, and from subspaces to edits."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


def subspaces(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Singular vectors and values of each head's covariance.

    Args:
        covariance: ``[H, D, D]``, float64: ``H^T H+ / n`` of method section "Learning" (paper, eq. 4).

    Returns:
        ``U [H, D, D]`` with singular vectors as columns and ``S [H, D]``, descending.
    """
    u, s, _ = torch.linalg.svd(covariance.double())
    return u, s


def rank_for_energy(singular_values: Tensor, energy: float) -> Tensor:
    """The smallest rank whose singular values hold ``energy`` of their sum: ``S [H, D]`` -> ``[H]`` (int64).

    A direction with no energy at all (0 in float32) is never kept, whatever rounding does to the sum.
    """
    share = singular_values.cumsum(-1) / singular_values.sum(-1, keepdim=True)
    return torch.minimum((share < energy).sum(-1) + 1, (singular_values.float() > 0).sum(-1))


def keep_columns(u: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """``U [H, D, R]`` with only columns ``first[h] <= j < last[h]``, others zero: ``[H, D, R]``."""
    j = torch.arange(u.shape[-1], device=u.device)
    return u * ((j >= first[:, None]) & (j < last[:, None]))[:, None, :]


def projection(factor: Tensor) -> Tensor:
    """``U U^T``: factors ``[H, D, R]`` -> projections ``[H, D, D]``."""
    return factor @ factor.transpose(-1, -2)


def factor_of(projections: Tensor, tolerance: float = 1e-3) -> Tensor:
    """Orthonormal factors of given orthogonal projections: ``[H, D, D]`` -> ``[H, D, R]``, zero-padded.

    Raises:
        ValueError: a matrix that is not an orthogonal projection (symmetric, with eigenvalues 0 and 1).
    """
    p = projections.double()
    skew = (p - p.transpose(-1, -2)).abs().amax().item() if p.numel() else 0.0
    if not p.isfinite().all() or skew > tolerance:
        raise ValueError(f"not an orthogonal projection: not finite or not symmetric (largest difference {skew:.2g})")
    values, vectors = torch.linalg.eigh((p + p.transpose(-1, -2)) / 2)
    off = torch.minimum(values.abs(), (values - 1).abs()).amax().item() if values.numel() else 0.0
    if off > tolerance:
        raise ValueError(f"not an orthogonal projection: an eigenvalue is {off:.2g} away from both 0 and 1")
    ranks = (values > 0.5).sum(-1)
    r = int(ranks.max()) if ranks.numel() else 0
    factor = vectors.flip(-1)[..., :r]  # eigh ascends
    return factor * (torch.arange(r) < ranks[:, None])[:, None, :]


@dataclass(frozen=True)
class KeyEdit:
    """One layer's edit ``k' = k + w k M`` on some heads, dense or as low-rank factors, gain included.

    Attributes:
        heads: the edited key-value heads ``[h]`` (int64).
        down, up: ``[h, D, r]`` and ``[h, r, D]`` with ``M = down @ up``; ``up`` is None where ``down`` is ``M`` itself.
    """

    heads: Tensor
    down: Tensor
    up: Tensor | None = None
    _placed: dict[torch.device, KeyEdit] = field(default_factory=dict, init=False, repr=False, compare=False)

    def matrix(self) -> Tensor:
        """``M [h, D, D]``."""
        return self.down if self.up is None else self.down @ self.up

    def of_heads(self, held: range) -> KeyEdit:
        """The part of the edit on some of the heads, which are counted from the first of them."""
        kept = (self.heads >= held.start) & (self.heads < held.stop)
        return KeyEdit(self.heads[kept] - held.start, self.down[kept], None if self.up is None else self.up[kept])

    def to(self, device: torch.device) -> KeyEdit:
        """The edit on a device, where it is copied once."""
        if device not in self._placed:
            with torch.inference_mode(False):  # a later pass may want gradients
                up = None if self.up is None else self.up.to(device)
                self._placed[device] = KeyEdit(self.heads.to(device), self.down.to(device), up)
        return self._placed[device]


def plan_edit(
    positive: Tensor, gain: float, negative: Tensor | None = None, gain_neg: float = 0.0, heads: Tensor | None = None
) -> KeyEdit | None:
    """The edit of one layer from its factors, in whichever form costs less.

        SEKA                k' = k + g+ P+ k
        SEKA, two-sided     k' = k + (g+ P+ k + g- P- k) / 2        (only when g- is not 0)

    Args:
        positive, negative: orthonormal factors ``[H, D, R]``; a head whose factors are zero is left alone.
        gain, gain_neg: g+ and g-.
        heads: restrict to these heads ``[h]``.

    Returns:
        The edit, or None if no head is edited.
    """
    two_sided = negative is not None and gain_neg != 0.0
    live = positive.abs().amax((1, 2)) > 0 if positive.shape[-1] else torch.zeros(len(positive), dtype=torch.bool)
    chosen = live.nonzero().flatten()
    if heads is not None:
        chosen = chosen[torch.isin(chosen, heads)]
    if not len(chosen) or (gain == 0.0 and not two_sided):
        return None
    factor = positive[chosen].float()
    if two_sided:
        assert negative is not None
        both = gain * projection(factor) + gain_neg * projection(negative[chosen].float())
        return KeyEdit(chosen, both / 2)
    _, d, r = factor.shape
    if 2 * r < d:  # two thin products cost less than one [D, D] product
        return KeyEdit(chosen, factor, gain * factor.transpose(-1, -2))
    return KeyEdit(chosen, gain * projection(factor))
