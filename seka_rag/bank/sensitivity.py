"""How many heads and directions are kept, as the two thresholds of learning change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seka_rag.bank.heads import NO_GAP, HeadChoice
from seka_rag.bank.projections import ProjectionBank
from seka_rag.ops.projection import rank_for_energy

SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
ENERGIES = (0.5, 0.75, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class SensitivityRow:
    """What one share of heads keeps.

    Attributes:
        best: share of all heads asked for.
        heads: how many have a gap among them.
        min_gap: the smallest gap among these; as ``min_gap`` it chooses the same heads.
        ranks: mean rank of these heads at each energy; None where singular values are not known.
    """

    best: float
    heads: int
    min_gap: float
    ranks: tuple[float | None, ...]


def sensitivity(
    gap: Tensor,
    spectra: Tensor,
    of: int,
    shares: Sequence[float] = SHARES,
    energies: Sequence[float] = ENERGIES,
) -> list[SensitivityRow]:
    """A row for each share of heads, with mean ranks at each energy.

    Args:
        gap: ``[L, H]``.
        spectra: singular values ``[L, H, D]``, all 0 for a head whose values are not known.
        of: how many heads the shares are of.
    """
    rows = []
    for share in shares:
        chosen = HeadChoice(best=share).choose(gap, of)
        known = spectra[chosen & (spectra.sum(-1) > 0)].double()
        complete = len(known) == int(chosen.sum()) > 0
        ranks = tuple(float(rank_for_energy(known, e).double().mean()) if complete else None for e in energies)
        rows.append(
            SensitivityRow(share, int(chosen.sum()), float(gap[chosen].min()) if chosen.any() else NO_GAP, ranks)
        )
    return rows


def bank_sensitivity(
    bank: ProjectionBank, shares: Sequence[float] = SHARES, energies: Sequence[float] = ENERGIES
) -> list[SensitivityRow]:
    """``sensitivity`` of what a bank holds: energies are shares of the singular values that it kept, not of all.

    Ranks of a share that includes heads which the bank dropped are None. For the whole picture take the statistics
    (``seka_rag.learning.statistics``).
    """
    spectra = torch.zeros(bank.model.layers, bank.model.heads, bank.model.head_dim)
    for layer, s in bank.singular_values.items():
        spectra[layer, :, : s.shape[-1]] = s
    return sensitivity(bank.gap, spectra, bank.head_count, shares, energies)
