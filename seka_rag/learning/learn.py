"""From triples to a bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seka_rag.bank import Learning, ProjectionBank
from seka_rag.bank.heads import NO_GAP, HeadChoice
from seka_rag.bank.sensitivity import ENERGIES, SHARES, SensitivityRow, sensitivity
from seka_rag.errors import LearningError
from seka_rag.hf.identity import ModelIdentity, identify
from seka_rag.learning.statistics import KeyStatistics, collect_statistics
from seka_rag.learning.triples import ContrastiveTriple
from seka_rag.ops.projection import keep_columns, rank_for_energy, subspaces


def learn_bank(
    model: Any,
    triples: Sequence[ContrastiveTriple],
    *,
    tokenizer: Any = None,
    energy: float = 0.9,
    min_gap: float | None = None,
    best: float | None = None,
    quantile: float | None = None,
    heads: Sequence[tuple[int, int]] | None = None,
    negative: bool = False,
    suggested_gain: float = 0.5,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> ProjectionBank:
    """Learn the relevance subspaces of a model.

    Args:
        model: a SteeredModel, or a transformers model with ``tokenizer``.
        triples: a few hundred; see ``template_triples`` and ``document_triples``.
        energy: share of the singular values that a head's subspace holds, in (0, 1].
        min_gap, best, quantile, heads: which heads to keep, by one rule of ``HeadChoice``: a least relevance gap, the best
            share of all heads, a quantile, or a list of ``(layer, head)``. Without one, every head that has a gap.
        negative: also learn the negative part ``P-``.
        suggested_gain: stored in the bank as the gain to start from.
        batch_size: triples that are handled at a time; prompts that begin alike share work only within it.
        progress: called with the number of triples done since the last call.

    Raises:
        LearningError: bad arguments, or triples that cannot be used.
        SettingError: two rules for heads, or one with a value that means nothing.
        UnsupportedModelError: the model's family is not known.
    """
    hf_model, tokenizer = getattr(model, "hf_model", model), tokenizer or getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise LearningError("give a SteeredModel, or a transformers model together with tokenizer=...")
    if not triples:
        raise LearningError("no triples to learn from")
    _check(energy)
    HeadChoice(min_gap, best, quantile, heads)  # bad arguments are an error before the model runs
    identity = identify(hf_model)
    statistics = collect_statistics(hf_model, tokenizer, triples, batch_size=batch_size, progress=progress)
    return bank_from_statistics(
        identity,
        statistics,
        energy=energy,
        min_gap=min_gap,
        best=best,
        quantile=quantile,
        heads=heads,
        negative=negative,
        suggested_gain=suggested_gain,
    )


def bank_from_statistics(
    identity: ModelIdentity,
    statistics: KeyStatistics,
    *,
    energy: float = 0.9,
    min_gap: float | None = None,
    best: float | None = None,
    quantile: float | None = None,
    heads: Sequence[tuple[int, int]] | None = None,
    negative: bool = False,
    suggested_gain: float = 0.5,
) -> ProjectionBank:
    """The bank of given statistics; arguments as in ``learn_bank``.

    Omega+ = H^T H+ / n = U+ S+ V^T,    P+ = U+[:, :r+] U+[:, :r+]^T,    P- = U-[:, r-:] U-[:, r-:]^T
    """
    _check(energy)
    rule = HeadChoice(min_gap, best, quantile, heads)
    n = statistics.tokens
    gap = statistics.gap / n
    with_keys = int((statistics.relevant.abs().amax((-1, -2)) > 0).sum())  # hybrids have layers without
    kept = rule.choose(gap, of=with_keys)
    if not kept.any():
        raise LearningError(
            f"no head is chosen by the rule {str(rule)!r}; the largest relevance gap is {gap.max():.4g}"
        )
    if without := (kept & (gap <= NO_GAP)).nonzero().tolist():
        raise LearningError(f"head {tuple(without[0])} has no relevance gap: there is nothing to learn for it")
    positive: dict[int, Tensor] = {}
    singular_values: dict[int, Tensor] = {}
    tails: dict[int, Tensor] = {}
    for layer in kept.any(1).nonzero().flatten().tolist():
        u, s = subspaces(statistics.relevant[layer] / n)
        u = _oriented(u, statistics.mean_relevant[layer])
        rank = rank_for_energy(s, energy) * kept[layer]
        first, width = torch.zeros_like(rank), int(rank.max())
        positive[layer] = keep_columns(u, first, rank)[..., :width].float()
        singular_values[layer] = keep_columns(s[:, None], first, rank)[:, 0, :width].float()
        if negative:
            u, s = subspaces(statistics.irrelevant[layer] / n)
            first = torch.where(kept[layer], rank_for_energy(s, energy), identity.head_dim)
            tail = keep_columns(u, first, torch.full_like(first, identity.head_dim))
            tails[layer] = tail.flip(-1)[..., : int(identity.head_dim - first.min())].float()
    learning = Learning(
        triples=statistics.triples, tokens=n, skipped=statistics.skipped, energy=energy, heads=str(rule)
    )
    return ProjectionBank(identity, positive, tails, gap, learning, suggested_gain, singular_values)


def statistics_sensitivity(
    statistics: KeyStatistics, shares: Sequence[float] = SHARES, energies: Sequence[float] = ENERGIES
) -> list[SensitivityRow]:
    """How many heads and directions a bank of these statistics keeps, as share of heads and energy change."""
    n = statistics.tokens
    spectra = torch.stack([subspaces(omega / n)[1] for omega in statistics.relevant])
    return sensitivity(statistics.gap / n, spectra, shares, energies)


def _oriented(u: Tensor, mean_relevant: Tensor) -> Tensor:
    """Signs of singular vectors are arbitrary: point each so that relevant keys lie on its positive side."""
    sign = torch.einsum("hd,hdj->hj", mean_relevant, u).sign()
    return u * torch.where(sign == 0, torch.ones_like(sign), sign)[:, None, :]


def _check(energy: float) -> None:
    if not 0 < energy <= 1:
        raise LearningError(f"energy={energy}: give a share in (0, 1]")
