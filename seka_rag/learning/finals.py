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
_NEAR = 0.15  # what is this close to such a strength is as good


@dataclass(frozen=True)
class Outcome:
    """Of the finals.

    Attributes:
        chosen: the setting.
        answers: of the plain model, then of the others in the order of their gain.
        weaker: trials that were measured here, of strengths that were tried because a stronger one did harm.
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
    none; what was tried at about that strength stands for it. What would be chosen then answers once more without fading. A
    third of the questions with a false sentence highlighted are also asked, and decide nothing.

    Args:
        measure: gives a setting's trial.

    Raises:
        LearningError: no setting is within the budget, or none is better than the plain model without harm.
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

    tried = list(trials)
    for best in sorted(full, key=by_gain, reverse=True):
        for _ in range(_WEAKER):
            if by_gain(best) <= harmless_gain():
                break
            weaker = _weaker(best.candidate)
            found = _like(weaker, tried)
            if found is None:
                tried.append(found := measure(weaker))
            asked = next((f for f in full if f.candidate == found[0]), None)
            best = asked or one_more(f"answers at {found[0].method.strength:g}", *found)
    one_more("answers, never fading", *_unfaded(choose(plain, full)))
    best = choose(plain, full)
    full.sort(key=by_gain, reverse=True)
    whole_ones = [f.candidate for f in full]
    first_only = [f for f in begun if f.candidate not in whole_ones]
    kept = [record(plain, f.answers, f.trial, f is best) for f in (*full, *first_only)]
    return Outcome(best.candidate, (record(plain, plain), *kept), tuple(t for _, t in tried[len(trials) :]))


def _unfaded(best: Finalist) -> tuple[Candidate, Trial]:
    """The same without fading. Its trial is that of the best: there is no fading before the first token."""
    twin = replace(best.candidate, method=best.candidate.method.model_copy(update={"fade": None}))
    return twin, best.trial.model_copy(update={"steering": twin.method.as_dict()})


def _weaker(candidate: Candidate) -> Candidate:
    """At 1/1.4 of its strength, in two digits."""
    return _at(candidate, float(f"{candidate.method.strength / 1.4:.2g}"))


def _like(candidate: Candidate, tried: Sequence[tuple[Candidate, Trial]]) -> tuple[Candidate, Trial] | None:
    """What was tried of the same at about this strength: answers to what hardly differs are a second throw of the dice."""

    def off(strength: float) -> float:
        return abs(strength / candidate.method.strength - 1)

    same = [(c, t) for c, t in tried if c == _at(candidate, c.method.strength) and off(c.method.strength) <= _NEAR]
    return min(same, key=lambda some: off(some[0].method.strength), default=None)


def _at(candidate: Candidate, strength: float) -> Candidate:
    return replace(candidate, method=candidate.method.with_strength(strength))
