"""From triples to a bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seka_rag.bank import Learning, ProjectionBank
from seka_rag.errors import LearningError
from seka_rag.hf.identity import ModelIdentity, identify
from seka_rag.learning.statistics import KeyStatistics, collect_statistics
from seka_rag.learning.triples import ContrastiveTriple
from seka_rag.ops.projection import keep_columns, rank_for_energy, subspaces

#: A gap below this is none at all. Layer 0 has it by construction: before rotary positions its keys depend on the
#: token alone, so no question can change them, and it is never steered.
NO_GAP = 1e-6


def learn_bank(
    model: Any,
    triples: Sequence[ContrastiveTriple],
    *,
    tokenizer: Any = None,
    energy: float = 0.9,
    min_gap: float | None = None,
    best: float | None = None,
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
        min_gap: keep heads whose relevance gap (mean l2 over tokens, as in the paper) is at least this. Absolute gaps
            differ from model to model.
        best: keep this share of all heads, those of the largest gap, in (0, 1]. At most one of ``min_gap`` and ``best``;
            with neither, every head that has a gap is kept.
        negative: also learn the negative part ``P-``.
        suggested_gain: stored in the bank as the gain to start from.

    Raises:
        LearningError: bad arguments, or triples that cannot be used.
        UnsupportedModelError: the model's family is not known.
    """
    hf_model, tokenizer = getattr(model, "hf_model", model), tokenizer or getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise LearningError("give a SteeredModel, or a transformers model together with tokenizer=...")
    if not triples:
        raise LearningError("no triples to learn from")
    _check(energy, min_gap, best)
    identity = identify(hf_model)
    statistics = collect_statistics(hf_model, tokenizer, triples, batch_size=batch_size, progress=progress)
    return bank_from_statistics(
        identity,
        statistics,
        energy=energy,
        min_gap=min_gap,
        best=best,
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
    negative: bool = False,
    suggested_gain: float = 0.5,
) -> ProjectionBank:
    """The bank of given statistics; arguments as in ``learn_bank``.

    Omega+ = H^T H+ / n = U+ S+ V^T,    P+ = U+[:, :r+] U+[:, :r+]^T,    P- = U-[:, r-:] U-[:, r-:]^T
    """
    _check(energy, min_gap, best)
    n = statistics.tokens
    gap = statistics.gap / n
    with_keys = int((statistics.relevant.abs().amax((-1, -2)) > 0).sum())  # hybrids have layers without
    kept = choose_heads(gap, min_gap, best, of=with_keys)
    if not kept.any():
        least = NO_GAP if min_gap is None else min_gap
        raise LearningError(f"no head has a relevance gap of at least {least:g}; the largest is {gap.max():.4g}")
    positive: dict[int, Tensor] = {}
    tails: dict[int, Tensor] = {}
    for layer in kept.any(1).nonzero().flatten().tolist():
        u, s = subspaces(statistics.relevant[layer] / n)
        u = _oriented(u, statistics.mean_relevant[layer])
        rank = rank_for_energy(s, energy) * kept[layer]
        positive[layer] = keep_columns(u, torch.zeros_like(rank), rank)[..., : int(rank.max())].float()
        if negative:
            u, s = subspaces(statistics.irrelevant[layer] / n)
            first = torch.where(kept[layer], rank_for_energy(s, energy), identity.head_dim)
            tail = keep_columns(u, first, torch.full_like(first, identity.head_dim))
            tails[layer] = tail.flip(-1)[..., : int(identity.head_dim - first.min())].float()
    rule = f"gap >= {min_gap}" if min_gap is not None else f"best {best:.0%}" if best is not None else "all with a gap"
    learning = Learning(triples=statistics.triples, tokens=n, skipped=statistics.skipped, energy=energy, heads=rule)
    return ProjectionBank(identity, positive, tails, gap, learning, suggested_gain)


def choose_heads(
    gap: Tensor, min_gap: float | None = None, best: float | None = None, *, of: int | None = None
) -> Tensor:
    """Which heads to steer: ``gap [L, H]`` -> bool ``[L, H]``. Heads without a gap never are; ``best`` is a share ``of`` n."""
    kept = gap > NO_GAP
    if min_gap is not None:
        kept &= gap >= min_gap
    if best is not None:
        count = max(1, round(best * (of or gap.numel())))
        kept &= gap >= gap.flatten().sort(descending=True).values[count - 1]
    return kept


def _oriented(u: Tensor, mean_relevant: Tensor) -> Tensor:
    """Signs of singular vectors are arbitrary: point each so that relevant keys lie on its positive side."""
    sign = torch.einsum("hd,hdj->hj", mean_relevant, u).sign()
    return u * torch.where(sign == 0, torch.ones_like(sign), sign)[:, None, :]


def _check(energy: float, min_gap: float | None, best: float | None) -> None:
    if not 0 < energy <= 1:
        raise LearningError(f"energy={energy}: give a share in (0, 1]")
    if best is not None and not 0 < best <= 1:
        raise LearningError(f"best={best}: give a share in (0, 1]")
    if min_gap is not None and best is not None:
        raise LearningError("give min_gap or best, not both")
