"""The last part of a calibration: the settings that first tokens leave over answer questions, and one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from seka_rag.bank.header import Answered, Trial
from seka_rag.errors import LearningError
from seka_rag.learning.answering import JUDGED, REPORTED, Answering, ByKind
from seka_rag.learning.choice import Finalist, choose, gain, record
from seka_rag.learning.progress import Progress, counting
from seka_rag.learning.trials import Candidate

_FIRST, _LEFT = 3, 3  # all answer a third of the questions; so many of them answer the others, too


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
    answering: Answering, trials: Sequence[tuple[Candidate, Trial]], budget: float, show: Progress
) -> tuple[Candidate, tuple[Answered, ...]]:
    """Ask the finalists, and choose.

    All answer a third of the questions of each kind. The three of the largest gain answer the others too, and the best of them
    once more without fading; also a third of those with a false sentence highlighted, which decide nothing.

    Returns:
        The chosen one, and what a bank keeps: the plain model, then the others in the order of their gain.

    Raises:
        LearningError: no setting is within the budget, or all do harm.
    """
    some = finalists(trials, budget)
    every = len(answering.records[JUDGED[0]])
    first, rest = range(every // _FIRST or 1), range(every // _FIRST or 1, every)
    left = min(_LEFT, len(some))
    total = len(JUDGED) * (len(first) * (len(some) + 1) + len(rest) * (left + 1) + every)
    advance = counting(show, "answers", total + len(REPORTED) * len(first) * (left + 2))
    ask = partial(answering, progress=advance)

    def whole(candidate: Candidate | None, begun: ByKind) -> ByKind:
        more = ask(candidate, JUDGED, rest) if rest else {}
        judged = {kind: begun[kind] + more[kind] if more else begun[kind] for kind in JUDGED}
        return {**judged, **ask(candidate, REPORTED, first)}

    beginning = ask(None, JUDGED, first)
    begun = [Finalist(c, t, ask(c, JUDGED, first)) for c, t in some]
    begun.sort(key=lambda f: -gain(beginning, f.answers))
    last = begun[:left]
    plain = whole(None, beginning)

    def by_gain(some: Finalist) -> float:
        return gain(plain, some.answers)

    full = [Finalist(f.candidate, f.trial, whole(f.candidate, f.answers)) for f in last]
    full += [Finalist(c, t, whole(c, ask(c, JUDGED, first))) for c, t in _unfaded(max(full, key=by_gain))]
    best = choose(plain, full)
    full.sort(key=by_gain, reverse=True)
    kept = [record(plain, f.answers, f.trial, f is best) for f in (*full, *begun[left:])]
    return best.candidate, (record(plain, plain), *kept)


def _unfaded(best: Finalist) -> list[tuple[Candidate, Trial]]:
    """The same without fading. Its trial is that of the best: there is no fading before the first token."""
    twin = replace(best.candidate, method=best.candidate.method.model_copy(update={"fade": None}))
    return [(twin, best.trial.model_copy(update={"steering": twin.method.as_dict()}))]
