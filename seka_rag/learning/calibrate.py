"""Calibration: which method, heads and strength make a model follow evidence most, at a bounded disturbance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from seka_rag.bank import ProjectionBank
from seka_rag.bank.header import Calibration, Trial
from seka_rag.errors import LearningError, SettingError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.sites import KeySites
from seka_rag.learning.examples import Example, closed_book_example, digest_of, record_examples
from seka_rag.learning.head_gradient import head_gradient
from seka_rag.learning.learn import learn_bank
from seka_rag.learning.scores import batches, margins, next_scores
from seka_rag.learning.tasks.lookup import template_triples
from seka_rag.learning.trials import Bench, Candidate, candidates
from seka_rag.learning.tune import TuningSettings, tune_vectors
from seka_rag.questions.facts import Fact, load_facts
from seka_rag.questions.kinds import questions
from seka_rag.steering.key_bias import KeyBias
from seka_rag.steering.key_vector import KeyVector

#: Called with the name of a step, how much of it is done, and how much it is in all.
Progress = Callable[[str, int, int], None]
_PASSAGES = (3, 4)  # of a question: short enough for a few minutes, with evidence at every place
_FACTS_NEEDED = 24


class CalibrationSettings(BaseModel):
    """How a model is calibrated.

    Attributes:
        budget: most disturbance, in nats of KL(plain, steered) at the answer where a highlight does not bear on the question.
        examples: conflicts and unrelated questions on which the last round measures; every round before takes half as many.
        rounds: of successive halving; after each, the better half of the candidates goes on.
        tuning: of the vectors; None to choose among untrained methods only.
        seed: of questions and training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: float = Field(default=0.3, gt=0, allow_inf_nan=False)
    examples: int = Field(default=64, ge=8)
    rounds: int = Field(default=3, ge=1)
    tuning: TuningSettings | None = TuningSettings()
    seed: int = 0


def calibrate(
    model: Any,
    bank: ProjectionBank | None = None,
    settings: CalibrationSettings | None = None,
    *,
    tokenizer: Any = None,
    facts: Sequence[Fact] | None = None,
    progress: Progress | None = None,
) -> ProjectionBank:
    """A bank that suggests the method, heads and strength that follow evidence best within a budget of disturbance.

    1. Facts that the model knows: closed book, it finds the true answer likelier than a false one by at least 1 nat.
    2. Of these, on the development side of the split: conflicts, and questions with unrelated evidence.
    3. Heads by the gradient of the evidence margin (``head_gradient``), and by gap.
    4. Methods and strengths on these heads by successive halving: 12, 24, ... examples, the better half goes on.
    5. Vectors trained from the best heads (``tune_vectors``), at 0.7, 1 and 1.4 of their length.
    6. Within the budget, of all settings whose following is at most two standard errors below the best, the one that disturbs
       least. The bank keeps the subspaces of the heads of the best untrained setting only.

    Args:
        model: a SteeredModel, or a transformers model with ``tokenizer``.
        bank: learned with all heads; by default one is learned from templates at energy 0.99.
        facts: to make questions of; by default the library's own. Only their development side is used.

    Raises:
        LearningError: the model knows too few facts, or no setting stays within the budget.
        SettingError: no tokenizer.
    """
    settings, show = settings or CalibrationSettings(), progress or (lambda *_: None)
    hf_model, tokenizer = getattr(model, "hf_model", model), tokenizer or getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise SettingError("give a SteeredModel, or a transformers model together with tokenizer=...")
    sites = find_key_sites(hf_model)
    known = _known(hf_model, tokenizer, sites, load_facts() if facts is None else facts, show)
    count = 2 * settings.examples if settings.tuning is None else 2 * settings.examples + 200
    conflicts, unrelated = (
        _examples(tokenizer, kind, known, count, settings.seed) for kind in ("conflict", "irrelevant")
    )
    n = settings.examples  # measured on these; gradient and training see the others
    if bank is None:
        triples = template_triples(200)
        bank = learn_bank(hf_model, triples, tokenizer=tokenizer, energy=0.99, progress=_counting(show, "bank", 200))
    unit = KeyBias(bias=1.0).edits(bank, sites)
    gradient = head_gradient(hf_model, conflicts[n : n + 32], unit, progress=_counting(show, "heads", 32))
    bench = Bench(hf_model, sites, conflicts[:n], unrelated[:n])
    trials = _halved(bench, candidates(bank, gradient), settings, show)
    if settings.tuning is not None:
        start = _start(unit, gradient, sites)
        advance = _counting(show, "training", settings.tuning.steps)
        vectors = tune_vectors(hf_model, start, conflicts[n:], unrelated[n:], settings.tuning, progress=advance)
        trained = _with(trials[0][0].bank, vectors=vectors)
        trials += _measured(
            bench,
            [Candidate(KeyVector(gain=g, fade="sentence"), trained, "all, trained") for g in (0.7, 1.0, 1.4)],
            settings,
        )
    plain = bench.measure(None, None, "none", n)
    allowed = [(c, t) for c, t in trials if t.disturbance <= settings.budget]
    if not allowed:
        least = min(t.disturbance for _, t in trials)
        raise LearningError(f"no setting stays within {settings.budget} nats of disturbance; the least is {least:.3g}")
    best = _least_disturbing(allowed)
    record = Calibration(
        budget=settings.budget,
        data=digest_of([*bench.conflicts, *bench.unrelated]),
        seed=settings.seed,
        trials=(plain, *(t for _, t in trials)),
    )
    return _with(best.bank, steering=best.method.as_dict(), calibration=record)


def _least_disturbing(trials: Sequence[tuple[Candidate, Trial]]) -> Candidate:
    """Of those whose following is at most two standard errors below the best."""
    best = max(trial.following for _, trial in trials)
    error = math.sqrt(best * (1 - best) / trials[0][1].examples)
    good = [(c, t) for c, t in trials if t.following >= best - 2 * error]
    return min(good, key=lambda item: item[1].disturbance)[0]


def _known(hf_model: Any, tokenizer: Any, sites: KeySites, facts: Sequence[Fact], show: Progress) -> dict[str, Fact]:
    """The development facts of which the true answer is at least 1 nat likelier than a false one, closed book."""
    some = [fact for fact in facts if fact.split == "development"]
    pairs = [(f, e) for f in some if (e := closed_book_example(tokenizer, f, f.alternatives[0][0])) is not None]
    found, done = {}, 0
    with torch.inference_mode():
        for chosen in batches([e for _, e in pairs], 32):
            here = [pairs[i][1] for i in chosen]
            for i, margin in zip(chosen, margins(next_scores(hf_model, sites, here, None), here).tolist(), strict=True):
                if margin < -1:
                    found[pairs[i][0].id] = pairs[i][0]
            done += len(chosen)
            show("facts", done, len(pairs))
    if len(found) < _FACTS_NEEDED:
        raise LearningError(
            f"the model knows {len(found)} of {len(pairs)} facts, and calibration needs {_FACTS_NEEDED}: give facts=... that "
            "it knows, or use a learned bank as it is"
        )
    return found


def _examples(tokenizer: Any, kind: Any, facts: Mapping[str, Fact], count: int, seed: int) -> list[Example]:
    records = questions(kind, "development", count, seed, facts=list(facts.values()), passages=_PASSAGES)
    return record_examples(tokenizer, records, facts)


def _halved(
    bench: Bench, some: Sequence[Candidate], settings: CalibrationSettings, show: Progress
) -> list[tuple[Candidate, Trial]]:
    """Successive halving: those within the budget first, then by margin, which tells more than a share of few examples."""
    left = list(some)
    for turn in range(settings.rounds):
        count = max(8, settings.examples >> (settings.rounds - 1 - turn))
        trials = []
        for done, candidate in enumerate(left):
            show(f"round {turn + 1} of {settings.rounds}", done, len(left))
            trials += _measured(bench, [candidate], settings, count)
        trials.sort(key=lambda item: (item[1].disturbance > settings.budget, -item[1].margin))
        left = [c for c, _ in trials[: max(2, len(trials) // 2)]]
    return trials


def _measured(
    bench: Bench, some: Sequence[Candidate], settings: CalibrationSettings, count: int | None = None
) -> list[tuple[Candidate, Trial]]:
    return [
        (c, bench.measure(c.method, c.method.edits(c.bank, bench.sites), c.heads, count or settings.examples))
        for c in some
    ]


def _start(unit: Mapping[int, Any], gradient: Tensor, sites: KeySites) -> dict[int, Tensor]:
    """One nat on the 10% of heads with the largest gradient, nothing on the others; layer 0 is not trained."""
    least = gradient.flatten().topk(max(1, round(0.1 * gradient.numel()))).values[-1]
    start = {layer: torch.zeros(sites.heads, sites.head_dim) for layer in sites.modules if layer > 0}
    for layer, vectors in start.items():
        for place, head in enumerate(unit[layer].heads.tolist() if layer in unit else ()):
            if gradient[layer, head] >= max(least, torch.tensor(0.0)):
                vectors[head] = unit[layer].vectors[place]
    return start


def _with(bank: ProjectionBank, **changes: Any) -> ProjectionBank:
    """A bank with some of its content changed."""
    names = "model positive negative gap learning singular_values steering queries strengths vectors".split()
    return ProjectionBank(**{**{name: getattr(bank, name) for name in names}, **changes})


def _counting(show: Progress, name: str, total: int) -> Callable[[int], None]:
    """Turns counts since the last call, as learning reports them, into counts so far."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        show(name, done, total)

    return advance
