"""From key covariances to subspaces."""

from __future__ import annotations

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
    return keep_columns(vectors.flip(-1)[..., :r], torch.zeros_like(ranks), ranks)  # eigh ascends
