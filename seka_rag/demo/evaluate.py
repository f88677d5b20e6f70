"""The demo's figures: what steering gains, what it costs, and what its controls do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from seka_rag.bench.rates import Rate
from seka_rag.demo.trials import Kind, Split, Trial, ask, make_trials, share, tokenized
from seka_rag.hf.tokens import pad, pad_id
from seka_rag.model.steered import SteeredModel
from seka_rag.questions.pairs import mcnemar
from seka_rag.steering.base import SteeringMethod
from seka_rag.steering.key_editing import KeyEditing
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.random_projection import RandomProjection
from seka_rag.steering.seka import Seka
from seka_rag.steering.sizes import edit_sizes

RANDOM_SEEDS = 5
KINDS: tuple[Kind, ...] = ("conflict", "disagree", "novel", "agreement", "irrelevant")
STATEMENTS = 6


@dataclass(frozen=True)
class Row:
    """One method on all kinds of trials: how often the answer is what the evidence says (or the truth)."""

    name: str
    rates: dict[Kind, Rate]
    outcomes: dict[Kind, list[bool]]


@dataclass(frozen=True)
class Variant:
    """A line of the table: a method (several for several random seeds), and what it highlights."""

    name: str
    methods: tuple[SteeringMethod | None, ...]
    highlight: Literal["evidence", "wrong"] = "evidence"
    kinds: tuple[Kind, ...] = KINDS


def edit_norm(model: SteeredModel, method: KeyEditing, trials: Sequence[Trial]) -> float:
    """Mean ``||delta k|| / ||k||`` over the highlighted tokens and the steered heads, in the steered pass itself."""
    assert model.bank is not None
    batch = pad([tokenized(model, t, "evidence") for t in trials], pad_id(model.tokenizer))
    sizes = edit_sizes(model.hf_model, model.bank, method, batch.input_ids, batch.weights, batch.attention_mask)
    return float(torch.cat([size[size > 0] for size in sizes.values()]).mean())


def variants(model: SteeredModel, gain: float) -> list[Variant]:
    """Plain, SEKA, SEKA on a wrong passage, and the controls at equal gain and at equal edit norm."""
    some = [t for t in make_trials("conflict", 64, "development") if t.evidence]
    norm = edit_norm(model, Seka(gain=gain), some)
    seeds = range(RANDOM_SEEDS)
    equal = [gain * norm / edit_norm(model, RandomProjection(gain=gain, seed=s), some) for s in seeds]
    return [
        Variant("plain", (None,)),
        Variant(f"SEKA, gain {gain:g}", (Seka(gain=gain),)),
        Variant("SEKA on a wrong passage", (Seka(gain=gain),), "wrong", ("conflict",)),
        Variant("random projection, equal gain", tuple(RandomProjection(gain=gain, seed=s) for s in seeds)),
        Variant(
            "random projection, equal edit norm",
            tuple(RandomProjection(gain=g, seed=s) for g, s in zip(equal, seeds, strict=True)),
        ),
        Variant("key scaling, equal gain", (KeyScaling(gain=gain),)),
        Variant(f"key scaling, equal edit norm ({norm:.2f})", (KeyScaling(gain=norm),)),
    ]


def evaluate(
    model: SteeredModel,
    lines: Sequence[Variant],
    *,
    n: int = 300,
    split: Split = "held-out",
    first_seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """Every line on ``n`` trials of each kind, the same trials for all (several random seeds are pooled)."""
    trials = {kind: make_trials(kind, n, split, statements=STATEMENTS, first_seed=first_seed) for kind in KINDS}
    rows = []
    for line in lines:
        outcomes: dict[Kind, list[bool]] = {}
        for kind in line.kinds:
            outcomes[kind] = []
            for method in line.methods:
                answers = ask(model, trials[kind], method, line.highlight)
                outcomes[kind] += [a == t.answer for a, t in zip(answers, trials[kind], strict=True)]
            if progress:
                progress(f"{line.name}: {kind}")
        rows.append(Row(line.name, {k: Rate.of(o) for k, o in outcomes.items()}, outcomes))
    return rows


def against(first: Row, second: Row, kind: Kind) -> float:
    """p of no difference on one kind (exact McNemar), if both answered the same trials; else NaN."""
    a, b = first.outcomes[kind], second.outcomes[kind]
    return mcnemar(a, b) if len(a) == len(b) else float("nan")


@dataclass(frozen=True)
class Gate:
    """A condition that the plain model must meet before anything is steered."""

    name: str
    rate: Rate
    low: float
    high: float = 1.0

    @property
    def passed(self) -> bool:
        return self.low <= self.rate.value <= self.high


def gates(model: SteeredModel, split: Split, n: int = 300) -> list[Gate]:
    """The gates of the embedded model, on one split."""
    result = []

    def rate(trials: Sequence[Trial]) -> Rate:
        return share(ask(model, trials), [t.answer for t in trials])

    novel = make_trials("novel", 2 * n, split, statements=8)
    first = [t for t in novel if t.evidence and t.text.find("?") < t.evidence.start]
    last = [t for t in novel if t not in first]
    result.append(Gate("novel facts, 8 statements, question first", rate(first), 0.95))
    result.append(Gate("novel facts, 8 statements, question last", rate(last), 0.95))
    result.append(Gate("closed book", rate(make_trials("closed book", n, split)), 0.95))
    result.append(Gate("irrelevant context", rate(make_trials("irrelevant", n, split, statements=6)), 0.95))
    result.append(Gate("agreement", rate(make_trials("agreement", n, split, statements=6)), 0.98))
    result.append(Gate("disagreeing passages", rate(make_trials("disagree", n, split, statements=6)), 0.4, 0.6))
    for statements in (4, 8, 12):
        trials = make_trials("conflict", n, split, statements=statements)
        result.append(Gate(f"memory conflict, {statements} statements", rate(trials), 0.0, 0.6))
    return result
