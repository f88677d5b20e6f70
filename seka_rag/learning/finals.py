"""The last part of a calibration: the settings that first tokens leave over answer questions, and one is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from seka_rag.bank.header import Answered, Trial
from seka_rag.errors import LearningError
from seka_rag.learning.answering import JUDGED, REPORTED, Answering, Answers, ByKind
from seka_rag.learning.choice import Finalist, choose, gain, harm, record
from seka_rag.learning.progress import Progress, counting
from seka_rag.learning.trials import Candidate
from seka_rag.questions.kinds import Kind

_FIRST, _LEFT = 3, 3  # all answer a third of the questions; so many of them answer the others, too
_WEAKER = 2  # times that a strength is divided by 1.4 where answers show harm


@dataclass(frozen=True)
class Outcome:
    """Of the finals.

    Attributes:
        chosen: the setting.
        answers: of the plain model, then of the others in the order of their gain.
        weaker: trials of the strengths that were tried because a stronger one did harm.
    """

    chosen: Candidate
    answers: tuple[Answered, ...]
    weaker: tuple[Trial, ...]


def finalists(trials: Sequence[tuple[Candidate, Trial]], budget: float) -> list[tuple[Candidate, Trial]]:
    """Within the budget: the first setting of each method, untrained, and the two strongest of each training; no controls.

    Args:
        trials: untrained ones in their order, the best first; trained ones by their strength.

    Raises:
        LearningError: none is within the budget.
    """
    every = [(c, t) for c, t in trials if not c.control]
    some = [(c, t) for c, t in every if t.disturbance <= budget]
    if not some:
        least = min(t.disturbance for _, t in every)
        raise LearningError(f"no setting stays within {budget} nats of disturbance; the least is {least:.3g}")
    groups: dict[tuple[type, str | None], list[tuple[Candidate, Trial]]] = {}
    for candidate, trial in some:
        groups.setdefault((type(candidate.method), candidate.training), []).append((candidate, trial))
    return [one for (_, training), group in groups.items() for one in (group[:1] if training is None else group[-2:])]


def finals(
    answering: Answering,
    trials: Sequence[tuple[Candidate, Trial]],
    budget: float,
    show: Progress,
    measure: Callable[[Candidate], tuple[Candidate, Trial]],
) -> Outcome:
    """Ask the finalists, and choose.

    All answer a third of the questions of each kind. The three of the largest gain answer the others too. Of these, one that
    does harm is tried at 1/1.4 of its strength, at most twice, as long as its gain is larger than that of all that do
    none. What would be chosen then answers once more without fading. A third of the questions with a false sentence
    highlighted are also asked, and decide nothing.

    Args:
        measure: gives a setting's trial.

    Raises:
        LearningError: no setting is within the budget, or all do harm.
    """
    some = finalists(trials, budget)
    every = len(answering.records[JUDGED[0]])
    first, rest = range(every // _FIRST or 1), range(every // _FIRST or 1, every)
    left = min(_LEFT, len(some))
    total = len(JUDGED) * (len(first) * (len(some) + 1) + len(rest) * (left + 1))
    advance = counting(show, "answers", total + len(REPORTED) * len(first) * (left + 1))

    def ask(candidate: Candidate | None, kinds: Sequence[Kind], part: range) -> dict[Kind, Answers]:
        return answering(candidate, kinds, part, progress=advance)

    def whole(candidate: Candidate | None, begun: ByKind) -> ByKind:
        more = ask(candidate, JUDGED, rest) if rest else {}
        judged = {kind: begun[kind] + more[kind] if more else begun[kind] for kind in JUDGED}
        return {**judged, **ask(candidate, REPORTED, first)}

    beginning = ask(None, JUDGED, first)
    begun = [Finalist(c, t, ask(c, JUDGED, first)) for c, t in some]
    begun.sort(key=lambda f: -gain(beginning, f.answers))
    plain = whole(None, beginning)
    full = [Finalist(f.candidate, f.trial, whole(f.candidate, f.answers)) for f in begun[:left]]

    def by_gain(some: Finalist) -> float:
        return gain(plain, some.answers)

    def one_more(step: str, candidate: Candidate, trial: Trial) -> Finalist:
        nonlocal advance
        advance = counting(show, step, len(JUDGED) * every + len(REPORTED) * len(first))
        full.append(Finalist(candidate, trial, whole(candidate, ask(candidate, JUDGED, first))))
        return full[-1]

    def harmless_gain() -> float:
        return max((by_gain(f) for f in full if harm(plain, f.answers) is None), default=-math.inf)

    weaker: list[Trial] = []
    for best in sorted(full, key=by_gain, reverse=True):
        for _ in range(_WEAKER):
            if by_gain(best) <= harmless_gain():
                break
            candidate = _weaker(best.candidate)
            asked = next((f for f in full if f.candidate == candidate), None)
            if asked is None:
                candidate, trial = measure(candidate)
                weaker.append(trial)
                asked = one_more(f"answers at {candidate.method.strength:g}", candidate, trial)
            best = asked
    one_more("answers, never fading", *_unfaded(choose(plain, full)))
    best = choose(plain, full)
    full.sort(key=by_gain, reverse=True)
    kept = [record(plain, f.answers, f.trial, f is best) for f in (*full, *begun[left:])]
    return Outcome(best.candidate, (record(plain, plain), *kept), tuple(weaker))


def _unfaded(best: Finalist) -> tuple[Candidate, Trial]:
    """The same without fading. Its trial is that of the best: there is no fading before the first token."""
    twin = replace(best.candidate, method=best.candidate.method.model_copy(update={"fade": None}))
    return twin, best.trial.model_copy(update={"steering": twin.method.as_dict()})


def _weaker(candidate: Candidate) -> Candidate:
    """In tenths, as trained strengths are: 2, 1.4, 1, 0.7, 0.5. What hardly differs would be a second throw of the dice."""
    method = candidate.method
    return replace(candidate, method=method.with_strength(round(method.strength / 1.4, 1)))
