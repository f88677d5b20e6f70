"""From triples to a bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seka_rag.bank import Learning, ProjectionBank
from seka_rag.bank.heads import NO_GAP
from seka_rag.bank.sensitivity import ENERGIES, SHARES, SensitivityRow, sensitivity
from seka_rag.errors import LearningError, SettingError
from seka_rag.hf.identity import ModelIdentity, identify
from seka_rag.hf.types import Tokenizer
from seka_rag.learning.settings import LearningSettings
from seka_rag.learning.statistics import KeyStatistics, collect_statistics
from seka_rag.learning.triples import ContrastiveTriple
from seka_rag.ops.projection import keep_columns, rank_for_energy, subspaces


def learn_bank(
    model: Any,
    triples: Sequence[ContrastiveTriple],
    settings: LearningSettings | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
    **options: object,
) -> ProjectionBank:
    """Learn the relevance subspaces of a model.

    Args:
        model: a SteeredModel, or a transformers model with ``tokenizer``.
        triples: a few hundred; see ``template_triples`` and ``document_triples``.
        settings: what the bank is to be like.
        batch_size: triples that are handled at a time; prompts that begin alike share work only within it.
        progress: called with the number of triples done since the last call.
        options: settings by name, such as ``energy=0.9, best=0.2``; see ``LearningSettings``.

    Raises:
        LearningError: triples that cannot be used.
        SettingError: no tokenizer, two rules for heads, or a setting or ``batch_size`` with a value that means nothing.
        UnsupportedModelError: the model's family is not known.
    """
    settings = LearningSettings.of(settings, options)  # bad ones are an error before the model runs
    hf_model, tokenizer = getattr(model, "hf_model", model), tokenizer or getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise SettingError("give a SteeredModel, or a transformers model together with tokenizer=...")
    if not triples:
        raise LearningError("no triples to learn from")
    identity = identify(hf_model)
    statistics = collect_statistics(
        hf_model, tokenizer, triples, batch_size=batch_size, values=settings.values, progress=progress
    )
    return bank_from_statistics(identity, statistics, settings)


def bank_from_statistics(
    identity: ModelIdentity,
    statistics: KeyStatistics,
    settings: LearningSettings | None = None,
    **options: object,
) -> ProjectionBank:
    """The bank of given statistics; settings and options as in ``learn_bank``.

    Omega+ = H^T H+ / n = U+ S+ V^T,    P+ = U+[:, :r+] U+[:, :r+]^T,    P- = U-[:, r-:] U-[:, r-:]^T
    With ``difference``, U+ and S+ are those of Omega+ - Omega-.
    """
    settings = LearningSettings.of(settings, options)
    energy, rule = settings.energy, settings.rule
    if settings.values and statistics.values is None:
        raise LearningError("these statistics hold no sums of values: collect them with values=True")
    n = statistics.tokens
    gap = statistics.gap / n
    kept = rule.choose(gap, statistics.head_count)
    if not kept.any():
        raise LearningError(
            f"no head is chosen by the rule {str(rule)!r}; the largest relevance gap is {gap.max():.4g}"
        )
    if without := (kept & (gap <= NO_GAP)).nonzero().tolist():
        raise LearningError(f"head {tuple(without[0])} has no relevance gap: there is nothing to learn for it")
    positive: dict[int, Tensor] = {}
    singular_values: dict[int, Tensor] = {}
    tails: dict[int, Tensor] = {}
    values: dict[int, Tensor] = {}
    for layer in kept.any(1).nonzero().flatten().tolist():
        positive[layer], singular_values[layer] = _subspace(statistics, layer, n, settings, kept[layer])
        if statistics.values is not None and settings.values:
            values[layer], _ = _subspace(statistics.values, layer, n, settings, kept[layer])
        if settings.negative:
            u, s = subspaces(statistics.irrelevant[layer] / n)
            first = torch.where(kept[layer], rank_for_energy(s, energy), identity.head_dim)
            tail = keep_columns(u, first, torch.full_like(first, identity.head_dim))
            tails[layer] = tail.flip(-1)[..., : int(identity.head_dim - first.min())].float()
    learning = Learning(
        method="triples, difference" if settings.difference else "triples",
        triples=statistics.triples,
        tokens=n,
        skipped=statistics.skipped,
        energy=energy,
        heads=str(rule),
    )
    return ProjectionBank(
        identity,
        positive,
        tails,
        gap,
        learning,
        settings.suggested_gain,
        singular_values,
        queries=statistics.queries.mean(),
        values=values,
        value_gap=None if statistics.values is None else statistics.values.gap / n,
    )


def _subspace(
    statistics: KeyStatistics, layer: int, tokens: int, settings: LearningSettings, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """Factors ``[H, D, R]`` of a layer and their singular values ``[H, R]``, zero for heads that are not kept ``[H]``."""
    omega = statistics.relevant[layer] - (statistics.irrelevant[layer] if settings.difference else 0.0)
    u, s = subspaces(omega / tokens)
    u = _oriented(u, statistics.mean_relevant[layer])
    rank = rank_for_energy(s, settings.energy) * kept
    first, width = torch.zeros_like(rank), int(rank.max())
    return keep_columns(u, first, rank)[..., :width].float(), keep_columns(s[:, None], first, rank)[
        :, 0, :width
    ].float()


def statistics_sensitivity(
    statistics: KeyStatistics, shares: Sequence[float] = SHARES, energies: Sequence[float] = ENERGIES
) -> list[SensitivityRow]:
    """How many heads and directions a bank of these statistics keeps, as share of heads and energy change."""
    n = statistics.tokens
    spectra = torch.stack([subspaces(omega / n)[1] for omega in statistics.relevant])
    return sensitivity(statistics.gap / n, spectra, statistics.head_count, shares, energies)


def _oriented(u: Tensor, mean_relevant: Tensor) -> Tensor:
    """Signs of singular vectors are arbitrary: point each so that relevant keys lie on its positive side."""
    sign = torch.einsum("hd,hdj->hj", mean_relevant, u).sign()
    return u * torch.where(sign == 0, torch.ones_like(sign), sign)[:, None, :]
