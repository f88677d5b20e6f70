"""Facts that a model knows, parted by subject: some are measured on, the others give gradients and training."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from seka_rag.errors import LearningError
from seka_rag.hf.sites import KeySites
from seka_rag.hf.types import Tokenizer
from seka_rag.learning.examples import Example, closed_book_example, record_examples
from seka_rag.learning.progress import Progress
from seka_rag.learning.scores import batches, margins, next_scores
from seka_rag.questions.answers import normalise
from seka_rag.questions.facts import Fact, load_facts
from seka_rag.questions.kinds import Kind, questions
from seka_rag.questions.records import Record

FACTS_NEEDED = 24
_PASSAGES = (3, 4)  # of a question: short enough for a few minutes, with evidence at every place


@dataclass(frozen=True)
class Sides:
    """Facts of which no subject is on both sides.

    Attributes:
        measured: trials are measured on these, each once.
        training: gradients and training see these, as often as they need, with other answers and passages.
    """

    measured: tuple[Fact, ...]
    training: tuple[Fact, ...]

    @classmethod
    def of(cls, known: Sequence[Fact], recalled: Collection[str], count: int, seed: int) -> Sides:
        """Part facts by a shuffle of their subjects.

        Args:
            known: facts of which the model prefers the true answer.
            recalled: ids of those that it answers. Only these are measured on: what was wrong before, steering cannot lose.
            count: how many to measure on. It is at most half of all, so that few known facts give a smaller measurement, and
                fewer where a third of all would not be left: a measured subject takes all its facts out of training.

        Raises:
            LearningError: too few facts, or too many about one subject, for both sides.
        """
        groups: dict[str, list[Fact]] = {}
        for fact in known:
            groups.setdefault(subject_of(fact), []).append(fact)
        names = sorted(groups)
        random.Random(f"sides {seed}").shuffle(names)
        answered = {name: [f for f in group if f.id in recalled] for name, group in groups.items()}
        right = sum(map(len, answered.values()))
        target, least = min(count, len(known) // 2, right), len(known) // 3
        first: list[Fact] = []
        second: list[Fact] = []
        left = len(known)
        for name in names:
            if answered[name] and len(first) < target and left - len(groups[name]) >= least:
                first += answered[name]
                left -= len(groups[name])
            else:
                second += groups[name]
        if len(known) < FACTS_NEEDED:
            raise LearningError(
                f"{len(known)} known facts about {len(groups)} subjects are too few to measure on some and train on others: "
                f"calibration needs {FACTS_NEEDED}; give more facts=..."
            )
        if right < FACTS_NEEDED // 2:
            raise LearningError(
                f"of {len(known)} facts that the model prefers to false ones it answers {right} in two of three wordings, "
                f"and calibration needs {FACTS_NEEDED // 2} to measure on: give more facts=..., or use a learned bank as it is"
            )
        if len(first) < min(count, FACTS_NEEDED // 2):
            raise LearningError(
                f"{len(known)} known facts about {len(groups)} subjects, {right} of them answered: no subject is on both "
                f"sides, so with a third left for training only {len(first)} can be measured, and calibration needs "
                f"{FACTS_NEEDED // 2}: give facts=... about more subjects"
            )
        return cls(tuple(first[:target]), tuple(second))

    def measured_records(self, kind: Kind, seed: int) -> list[Record]:
        """One question about each measured fact, or as many of a kind that is about something invented."""
        return questions(kind, "development", len(self.measured), seed, facts=self.measured, passages=_PASSAGES)

    def training_records(self, kind: Kind, count: int, seed: int) -> list[Record]:
        """Questions in which no passage is about a measured subject, either."""
        measured = {subject_of(fact) for fact in self.measured}
        others = [f for f in load_facts() if f.split == "development" and subject_of(f) not in measured]
        return questions(kind, "development", count, seed, facts=self.training, passages=_PASSAGES, others=others)

    def measured_examples(self, tokenizer: Tokenizer, kind: Kind, seed: int) -> list[Example]:
        """See ``measured_records``."""
        return record_examples(tokenizer, self.measured_records(kind, seed), {f.id: f for f in self.measured})

    def training_examples(self, tokenizer: Tokenizer, kind: Kind, count: int, seed: int) -> list[Example]:
        """See ``training_records``; a few less where two answers begin with one token."""
        return record_examples(tokenizer, self.training_records(kind, count, seed), {f.id: f for f in self.training})


def subject_of(fact: Fact) -> str:
    """What is the same for all facts of one subject."""
    return normalise(fact.group or fact.subject)


def known_facts(
    hf_model: nn.Module, tokenizer: Tokenizer, sites: KeySites, facts: Sequence[Fact], show: Progress
) -> list[Fact]:
    """The development facts of which the true answer is at least 1 nat likelier than a false one, closed book.

    Raises:
        LearningError: fewer than ``FACTS_NEEDED``.
    """
    some = [fact for fact in facts if fact.split == "development"]
    pairs = [(f, e) for f in some if (e := closed_book_example(tokenizer, f, f.alternatives[0][0])) is not None]
    known, done = [False] * len(pairs), 0
    with torch.inference_mode():
        for chosen in batches([e for _, e in pairs], 32):
            here = [pairs[i][1] for i in chosen]
            for i, margin in zip(chosen, margins(next_scores(hf_model, sites, here, None), here).tolist(), strict=True):
                known[i] = margin < -1
            done += len(chosen)
            show("facts", done, len(pairs))
    found = [fact for (fact, _), yes in zip(pairs, known, strict=True) if yes]
    if len(found) < FACTS_NEEDED:
        raise LearningError(
            f"the model knows {len(found)} of {len(pairs)} facts, and calibration needs {FACTS_NEEDED}: give facts=... that "
            "it knows, or use a learned bank as it is"
        )
    return found
