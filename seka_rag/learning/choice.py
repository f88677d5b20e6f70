"""Which of some settings is chosen: by what they answer rightly beside the plain model, less what they harm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seka_rag.bank.header import Answered, KindAnswered, Trial
from seka_rag.errors import LearningError
from seka_rag.learning.answering import JUDGED, ByKind
from seka_rag.learning.trials import Candidate
from seka_rag.questions.kinds import Kind
from seka_rag.questions.pairs import discordant, mcnemar, mean_difference

#: Where steering has nothing to correct, and so must not lose.
KEPT: tuple[Kind, ...] = ("agreement", "irrelevant")
#: Question i of each of these is about one fact; those of the other kinds are about something else.
_ABOUT_FACTS: tuple[Kind, ...] = ("conflict", "agreement", "irrelevant")
#: A loss counts as harm if it is larger than this share and its p below this level; repetition likewise, beyond two errors.
HARM, LEVEL = 0.02, 0.1


@dataclass(frozen=True)
class Finalist:
    """A setting with its trial by first tokens and its answers."""

    candidate: Candidate
    trial: Trial
    answers: ByKind


def gain(plain: ByKind, steered: ByKind) -> float:
    """The mean over kinds of how many more answers are right, as a share of the questions."""
    return sum(mean_difference(plain[kind].right, steered[kind].right)[0] for kind in JUDGED) / len(JUDGED)


def error(first: ByKind, second: ByKind) -> float:
    """The standard error of the difference of two settings' gains, paired by fact, and where there is none by question."""

    def right(some: ByKind) -> list[int]:
        return [sum(fact) for fact in zip(*(some[kind].right for kind in _ABOUT_FACTS), strict=True)]

    others = [(first[kind].right, second[kind].right) for kind in JUDGED if kind not in _ABOUT_FACTS]
    return math.hypot(*(mean_difference(*pair)[1] for pair in [(right(first), right(second)), *others])) / len(JUDGED)


def harm(plain: ByKind, steered: ByKind) -> str | None:
    """What a setting loses, in words; None if nothing that shows.

    Right answers to a kind of ``KEPT``: more than 2 points, at p < .1 of McNemar's exact test. Repetition in answers of all
    kinds: more than 2 points, and more than two standard errors.
    """
    for kind in KEPT:
        lost = -mean_difference(plain[kind].right, steered[kind].right)[0]
        p = mcnemar(plain[kind].right, steered[kind].right)
        if lost > HARM and p < LEVEL:
            return f"{kind}: {lost:.0%} fewer right (p = {p:.2g})"
    before, after = ([r for kind in JUDGED for r in some[kind].repeated] for some in (plain, steered))
    more, uncertain = mean_difference(before, after)
    return f"repetition: {more:+.1%}" if more > HARM and more > 2 * uncertain else None


def choose(plain: ByKind, finalists: Sequence[Finalist]) -> Finalist:
    """Of those that gain, do no harm, and are within one paired standard error of the largest gain, the least disturbing.

    Raises:
        LearningError: none gains without harm.
    """

    def against(some: Finalist) -> str | None:
        gained = gain(plain, some.answers)
        return harm(plain, some.answers) or (None if gained > 0 else f"no gain ({gained:+.3f})")

    better = [f for f in finalists if against(f) is None]
    if not better:
        why = "; ".join(f"{f.candidate.method!r}: {against(f)}" for f in finalists)
        raise LearningError(
            f"every setting does harm or answers no better than without steering, so none is chosen: {why}"
        )
    best = max(better, key=lambda f: gain(plain, f.answers))
    most = gain(plain, best.answers)
    good = [f for f in better if gain(plain, f.answers) >= most - error(f.answers, best.answers)]
    return min(good, key=lambda f: f.trial.disturbance)


def record(plain: ByKind, steered: ByKind, trial: Trial | None = None, chosen: bool = False) -> Answered:
    """What a bank keeps of a setting's answers; without a trial, of the plain model's.

    Args:
        plain: answers to at least the same questions.
    """
    plain = {kind: plain[kind].first(len(answers.right)) for kind, answers in steered.items()}
    kinds = []
    for kind, answers in steered.items():
        n, (lost, won) = len(answers.right), discordant(plain[kind].right, answers.right)
        kinds.append(
            KindAnswered(
                kind=kind,
                n=n,
                right=sum(answers.right),
                won=won,
                lost=lost,
                repetition=sum(answers.repeated) / n,
                stopped=sum(answers.stopped),
            )
        )
    return Answered(
        steering=None if trial is None else trial.steering,
        heads="none" if trial is None else trial.heads,
        disturbance=0.0 if trial is None else trial.disturbance,
        gain=gain(plain, steered),
        harm=harm(plain, steered),
        kinds=tuple(kinds),
        chosen=chosen,
    )
