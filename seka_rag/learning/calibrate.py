"""Calibration: which method, heads and strength make a model follow evidence most, at a bounded disturbance."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from seka_rag.bank import ProjectionBank
from seka_rag.bank.header import Calibration, Trial
from seka_rag.errors import LearningError, SettingError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.identity import ModelIdentity, identify
from seka_rag.hf.sites import KeySites
from seka_rag.hf.types import Tokenizer
from seka_rag.hf.verify import evaluating
from seka_rag.learning.answering import JUDGED, REPORTED, Answering
from seka_rag.learning.examples import Example, digest_of
from seka_rag.learning.finals import finals
from seka_rag.learning.head_gradient import head_gradient
from seka_rag.learning.learn import learn_bank
from seka_rag.learning.progress import Progress, counting
from seka_rag.learning.recall import recalled_facts
from seka_rag.learning.resume import Steps, short_digest
from seka_rag.learning.sides import Sides, known_facts
from seka_rag.learning.tasks.lookup import template_triples
from seka_rag.learning.trainable import TRAINABLES, Training, by_layer
from seka_rag.learning.trials import METHODS, Bench, Candidate, Measure, candidates, finite
from seka_rag.learning.tune import TuningSettings, tune
from seka_rag.questions.facts import Fact, load_facts
from seka_rag.steering.key_bias import KeyBias
from seka_rag.steering.random_projection import RandomProjection
from seka_rag.steering.seka import Seka

_GRADIENT, _TRAINING = 32, 264  # examples of each kind
_TWINS = 3  # seeds of random projections


class CalibrationSettings(BaseModel):
    """How a model is calibrated.

    Attributes:
        budget: most disturbance, in nats of KL(plain, steered) at the answer where a highlight does not bear on the question.
        examples: conflicts and unrelated questions on which the last round measures first tokens, at most half of the known
            facts; every round before takes half as many.
        rounds: of successive halving; after each, the better half of the candidates goes on.
        questions: of each kind, to which the finalists generate answers; at most half of the known facts.
        tune: what is trained besides (names of ``TRAINABLES``); by default nothing.
        tuning: how.
        seed: of questions and training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: float = Field(default=0.3, gt=0, allow_inf_nan=False)
    examples: int = Field(default=64, ge=8)
    rounds: int = Field(default=3, ge=1)
    questions: int = Field(default=100, ge=8)
    tune: tuple[Training, ...] = ()
    tuning: TuningSettings = TuningSettings()
    seed: int = 0


def calibrate(
    model: Any,
    bank: ProjectionBank | None = None,
    settings: CalibrationSettings | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    facts: Sequence[Fact] | None = None,
    progress: Progress | None = None,
    unfinished: str | os.PathLike[str] | None = None,
) -> ProjectionBank:
    """A bank that suggests the method, heads and strength that follow evidence best within a budget of disturbance.

    1. Facts that the model knows: closed book, it finds the true answer likelier than a false one by at least 1 nat. What it
       answers is asked in three wordings.
    2. Of these, on the development side of the split: conflicts, and questions with unrelated evidence. Subjects are parted
       (``Sides``): on up to half of the facts, all of which it answers in two wordings at least, settings are measured; the
       others give gradients and training.
    3. Heads by the gradient of the evidence margin (``head_gradient``), and by gap.
    4. Methods and strengths on these heads by successive halving: 16, 32, ... examples; the better half goes on, and the best
       setting of each method. Beside the best SEKA its random twins are measured, which are never chosen.
    5. If asked for: vectors, strengths of heads or subspaces, trained from the best heads (``tune``), at 0.7, 1, 1.4 and 2
       times what they were trained for.
    6. Within the budget, the best setting of each method and the two strongest of each training generate answers (``finals``);
       what does harm is made weaker. Chosen is, of those that harm nothing, the one with most right answers over questions
       of four kinds (``choose``). The bank keeps the subspaces that the chosen one needs, and trained vectors whoever is
       chosen.

    The choice among settings is made on what was measured, so the chosen one's figures are a little too good: what it is worth
    shows on the held-out side, which is not touched here.

    Args:
        model: a SteeredModel, or a transformers model with ``tokenizer``.
        bank: learned with all heads; by default one is learned from templates at energy 0.99.
        facts: to make questions of; by default the library's own. Only their development side is used.
        unfinished: folder in which steps and trials are kept, so that a calibration that was killed goes on there; remove it
            when the bank is saved. One of another model, tokenizer, bank, facts, settings or version of this library starts
            anew, and the log says so.

    Raises:
        BankError: the bank was learned for another model.
        LearningError: the model knows or answers too few facts, no setting stays within the budget, or none answers better
            than the plain model without harm.
        SettingError: no tokenizer; ``unfinished`` holds other files, or is one.
    """
    settings, show = settings or CalibrationSettings(), progress or (lambda *_: None)
    hf_model, tokenizer = getattr(model, "hf_model", model), tokenizer or getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise SettingError("give a SteeredModel, or a transformers model together with tokenizer=...")
    facts = load_facts() if facts is None else facts
    identity = identify(hf_model)
    if bank is not None:
        bank.model.check(identity)
    steps = Steps(None if unfinished is None else Path(unfinished), _run(identity, tokenizer, bank, settings, facts))
    with evaluating(hf_model):
        ground = prepare(hf_model, tokenizer, bank, settings, facts, steps, show)
        sides, sites = ground.sides, ground.sites
        measured, others = (
            sides.measured_examples(tokenizer, kind, settings.seed)[: settings.examples]
            for kind in ("conflict", "irrelevant")
        )
        bench = Bench(hf_model, sites, measured, others)
        measure = Measure(bench, steps)
        trials = _halved(measure, candidates(ground.bank, ground.gradient), settings, show)
        trials += [measure(twin) for twin in _twins(trials)]
        best = trials[0][0].bank
        vectors: dict[int, Tensor] = {}
        for name in settings.tune:
            trained = TRAINABLES[name](ground.bank, ground.begin, sites)
            advance = counting(show, f"training {name}", settings.tuning.steps)
            examples = ground.conflicts, ground.unrelated
            tensors = tune(
                hf_model, trained, *examples, settings.tuning, seed=settings.seed, progress=advance, steps=steps
            )
            vectors = vectors or by_layer(tensors, "vector")
            held = trained.bank(tensors, best)
            for done, method in enumerate(trained.methods):
                show(f"trained {name}", done, len(trained.methods))
                trials.append(measure(Candidate(method, held, f"all, trained {name}", training=name)))
        trials = finite(trials)
        plain = bench.measure(None, range(len(bench.conflicts))).trial(None, "none")
        kinds = (*JUDGED, *REPORTED)
        asked = {kind: sides.measured_records(kind, settings.seed)[: settings.questions] for kind in kinds}
        answering = Answering(hf_model, tokenizer, asked, steps)
        outcome = finals(answering, trials, settings.budget, show, measure)
        record = Calibration(
            budget=settings.budget,
            data=digest_of([*bench.conflicts, *bench.unrelated]),
            seed=settings.seed,
            trials=(plain, *(t for _, t in trials), *outcome.weaker),
            known=ground.known,
            recalled=ground.recalled,
            trained=len(sides.training),
            measured=len(sides.measured),
            answers=outcome.answers,
            questions=answering.digest,
        )
        chosen = outcome.chosen
        return chosen.bank.changed(steering=chosen.method.as_dict(), calibration=record, vectors=vectors)


@dataclass(frozen=True)
class Groundwork:
    """What calibration and training begin with.

    Attributes:
        known, recalled: how many facts the model prefers to false ones, and of these, how many it answers.
        sides: of these facts.
        conflicts, unrelated: examples for gradients and training.
        bank: of all heads.
        gradient: ``[L, H]`` of the evidence margin by each head's strength, for a key bias of one nat.
    """

    sites: KeySites
    known: int
    recalled: int
    sides: Sides
    conflicts: Sequence[Example]
    unrelated: Sequence[Example]
    bank: ProjectionBank
    gradient: Tensor

    @property
    def begin(self) -> Tensor:
        """``[L, H]``: 1 at the 10% of heads with the largest gradient, where training starts; 0 at the others."""
        least = self.gradient.flatten().topk(max(1, round(0.1 * self.bank.head_count))).values[-1]
        return ((self.gradient >= least.clamp_min(0)) & (self.bank.ranks > 0)).float()


def prepare(
    hf_model: nn.Module,
    tokenizer: Tokenizer,
    bank: ProjectionBank | None,
    settings: CalibrationSettings,
    facts: Sequence[Fact],
    steps: Steps,
    show: Progress,
) -> Groundwork:
    """Known facts on two sides, examples, a bank of all heads, and their gradient; see ``calibrate``."""
    sites = find_key_sites(hf_model)
    ids = steps.json("known", lambda: [f.id for f in known_facts(hf_model, tokenizer, sites, facts, show)])
    known = [fact for fact in facts if fact.id in set(ids)]
    asked = partial(recalled_facts, hf_model, tokenizer, known, progress=partial(show, "recall"))
    recalled = steps.json("recalled", lambda: [f.id for f in asked()])
    sides = Sides.of(known, recalled, max(settings.examples, settings.questions), settings.seed)
    count = _TRAINING if settings.tune else _GRADIENT
    conflicts, unrelated = (
        sides.training_examples(tokenizer, kind, count, settings.seed) for kind in ("conflict", "irrelevant")
    )
    if bank is None:
        advance = counting(show, "bank", 200)
        bank = steps.bank(
            "learned",
            lambda: learn_bank(hf_model, template_triples(200), tokenizer=tokenizer, energy=0.99, progress=advance),
        )
    unit = KeyBias(bias=1.0).edits(bank, sites)
    some, advance = conflicts[:_GRADIENT], counting(show, "heads", _GRADIENT)
    gradient = steps.tensors("gradient", lambda: {"gradient": head_gradient(hf_model, some, unit, progress=advance)})
    return Groundwork(sites, len(known), len(recalled), sides, conflicts, unrelated, bank, gradient["gradient"])


def _twins(trials: Sequence[tuple[Candidate, Trial]]) -> list[Candidate]:
    """Random subspaces of the ranks of the best SEKA, on its heads, at its gain."""
    for candidate, _ in trials:
        if isinstance(candidate.method, Seka):
            gain, fade = candidate.method.gain, candidate.method.fade
            some = (RandomProjection(gain=gain, seed=seed, fade=fade) for seed in range(_TWINS))
            return [Candidate(twin, candidate.bank, candidate.heads, control=True) for twin in some]
    return []


def _halved(
    measure: Measure, some: Sequence[Candidate], settings: CalibrationSettings, show: Progress
) -> list[tuple[Candidate, Trial]]:
    """Successive halving: first those within the budget, by margin, which tells more than a share of few examples.

    Behind them those that disturb least, so that what is said to disturb least does, where none stays within.
    """

    def order(item: tuple[Candidate, Trial]) -> tuple[bool, float]:
        over = item[1].disturbance > settings.budget
        return over, item[1].disturbance if over else -item[1].margin

    left = list(some)
    for turn in range(settings.rounds):
        count = max(8, len(measure.bench.conflicts) >> (settings.rounds - 1 - turn))
        trials = []
        for done, candidate in enumerate(left):
            show(f"round {turn + 1} of {settings.rounds}", done, len(left))
            trials.append(measure(candidate, count))
        trials = sorted(finite(trials), key=order)
        if not trials:
            raise LearningError("the model's scores are not finite with any setting: load it in float32 or bfloat16")
        best = {type(c.method): place for place, (c, _) in reversed(list(enumerate(trials)))}.values()
        left = [c for place, (c, _) in enumerate(trials) if place < max(2, len(trials) // 2) or place in best]
    return trials


def _run(
    model: ModelIdentity,
    tokenizer: Tokenizer,
    bank: ProjectionBank | None,
    settings: CalibrationSettings,
    facts: Sequence[Fact],
) -> dict[str, object]:
    """All that the steps of a calibration depend on."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # one without is refused where it is first used
    return {
        "procedure": [_GRADIENT, _TRAINING, _TWINS, [method.as_dict() for method in METHODS]],
        "version": version("seka-rag"),
        "model": model.model_dump(),
        "tokenizer": short_digest([backend and backend.to_str(), tokenizer.chat_template]),
        "bank": None if bank is None else bank.digest,
        "settings": settings.model_dump(),
        "facts": short_digest([fact.model_dump() for fact in facts]),
    }
