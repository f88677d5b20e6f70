"""Questions to the demo model, with what the passage says, what memory says, and where the evidence stands.

Two splits that share no person: "development", for every choice, and "held-out", for the figures that are reported.
Held-out pairings of person and value were never stated in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seka_rag.bench.rates import Rate
from seka_rag.demo import words as w
from seka_rag.demo import world
from seka_rag.demo.world import Fact
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.learning.triples import ContrastiveTriple
from seka_rag.model.steered import SteeredModel
from seka_rag.steering.base import SteeringMethod
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span

Split = Literal["development", "held-out"]
Kind = Literal["conflict", "disagree", "novel", "agreement", "irrelevant", "closed book"]
_SEEDS = {"development": 1000, "held-out": 2000}


@dataclass(frozen=True)
class Trial:
    """One question: the prompt without highlights, the evidence in it, another passage, and two answers.

    Attributes:
        text: the user's message.
        evidence, wrong: spans of the statement to highlight, and of one that is not about the question.
        answer: what the evidence says (where there is none: the truth).
        other: what memory, or the other passage, says.
        chat: through the chat template, or as plain text.
    """

    text: str
    evidence: Span | None
    wrong: Span | None
    answer: str
    other: str | None
    chat: bool

    def prompt(self, highlight: Literal["evidence", "wrong"] | None) -> Prompt:
        span = self.evidence if highlight == "evidence" else self.wrong if highlight == "wrong" else None
        return Prompt(self.text, (span,) if span else ())


def _people(split: Split) -> NDArray[np.int64]:
    """The people of a split, ``[n]``."""
    return np.array([p for p in range(len(w.NAMES)) if world.held_out_person(p) == (split == "held-out")], np.int64)


def _value(rng: np.random.Generator, person: int, split: Split) -> int:
    while True:
        value = world.random_value(rng, person, training=split == "development")
        if split == "development" or world.held_out_fact(person, value):
            return value


def strangers(rng: np.random.Generator, n: int, split: Split, besides: int | None = None) -> list[Fact]:
    """Facts about people that the model knows nothing of, more than half sharing one relation."""
    people = _people(split)
    people = people[(people >= world.KNOWN) & (people != besides)]
    shared = int(rng.integers(world.N_RELATIONS))
    facts = []
    for person in rng.permutation(people)[:n]:
        relation = shared if rng.random() < 0.6 else int(rng.integers(world.N_RELATIONS))
        facts.append(Fact(int(person), relation, _value(rng, int(person), split)))
    return facts


def _write(
    rng: np.random.Generator, facts: list[Fact], asked: Fact, evidence: int | None, wrong: int | None, other: str | None
) -> Trial:
    context = world.write_context(facts, rng, fillers=0.1)
    frames = world.LAST if rng.random() < 0.5 else world.FIRST
    frame, question = frames[rng.integers(len(frames))], asked.question(rng)
    chat = rng.random() < 0.7
    text = frame.format(c=context.text, q=question)
    if not chat and not text.rstrip().endswith("Answer:"):
        text += "\nAnswer:"
    start = frame.split("{c}")[0].format(q=question)
    spans = {i: Span(a + len(start), b + len(start)) for i, (a, b) in context.spans.items()}
    return Trial(
        text,
        None if evidence is None else spans[evidence],
        None if wrong is None else spans[wrong],
        asked.answer,
        other,
        bool(chat),
    )


def make_trials(kind: Kind, n: int, split: Split, *, statements: int = 6, first_seed: int = 0) -> list[Trial]:
    """``n`` trials of one kind with ``statements`` statements each, from a seed of the split.

    conflict: one passage contradicts memory, once. disagree: two passages disagree about somebody unknown.
    novel: the passage tells something new. agreement: it says what memory says. irrelevant: no passage is about the
    question, memory has the answer. closed book: no passage at all.
    """
    rng = np.random.default_rng([_SEEDS[split], list(_KINDS).index(kind), statements, first_seed])
    return [_KINDS[kind](rng, statements, split) for _ in range(n)]


def _conflict(rng: np.random.Generator, n: int, split: Split) -> Trial:
    people = _people(split)
    memory = world.remembered(rng, people[people < world.KNOWN])
    said = memory
    while said.value == memory.value:
        said = Fact(memory.person, memory.relation, _value(rng, memory.person, split))
    facts = strangers(rng, n - 1, split)
    at = int(rng.integers(n))
    facts.insert(at, said)
    return _write(rng, facts, said, at, (at + 1) % n, memory.answer)


def _agreement(rng: np.random.Generator, n: int, split: Split) -> Trial:
    people = _people(split)
    memory = world.remembered(rng, people[people < world.KNOWN])
    facts = strangers(rng, n - 1, split)
    at = int(rng.integers(n))
    facts.insert(at, memory)
    return _write(rng, facts, memory, at, (at + 1) % n, None)


def _irrelevant(rng: np.random.Generator, n: int, split: Split) -> Trial:
    people = _people(split)
    memory = world.remembered(rng, people[people < world.KNOWN])
    return _write(rng, strangers(rng, n, split), memory, 0, n - 1, None)


def _disagree(rng: np.random.Generator, n: int, split: Split) -> Trial:
    people = _people(split)
    person = int(rng.choice(people[people >= world.KNOWN]))
    one = other = Fact(person, int(rng.integers(world.N_RELATIONS)), _value(rng, person, split))
    while one == other:
        other = Fact(person, one.relation, _value(rng, person, split))
    facts = strangers(rng, n - 2, split, besides=person)
    places = sorted(rng.choice(n, 2, replace=False).tolist())
    pair = [one, other] if rng.random() < 0.5 else [other, one]
    for place, fact in zip(places, pair, strict=True):
        facts.insert(place, fact)
    at = places[pair.index(one)]
    return _write(rng, facts, one, at, places[pair.index(other)], other.answer)


def _novel(rng: np.random.Generator, n: int, split: Split) -> Trial:
    facts = strangers(rng, n, split)
    at = int(rng.integers(n))
    return _write(rng, facts, facts[at], at, (at + 1) % n, None)


def _closed(rng: np.random.Generator, n: int, split: Split) -> Trial:
    people = _people(split)
    memory = world.remembered(rng, people[people < world.KNOWN])
    chat = rng.random() < 0.7
    question = memory.question(rng)
    return Trial(question if chat else f"Question: {question}\nAnswer:", None, None, memory.answer, None, bool(chat))


_KINDS: dict[str, Callable[[np.random.Generator, int, Split], Trial]] = {
    "conflict": _conflict,
    "disagree": _disagree,
    "novel": _novel,
    "agreement": _agreement,
    "irrelevant": _irrelevant,
    "closed book": _closed,
}


def tokenized(model: SteeredModel, trial: Trial, highlight: Literal["evidence", "wrong"] | None) -> TokenizedPrompt:
    """The trial's prompt as the model sees it."""
    prompt = trial.prompt(highlight)
    return model.tokenize_chat([{"role": "user", "content": prompt}]) if trial.chat else model.tokenize(prompt)


def ask(
    model: SteeredModel,
    trials: Sequence[Trial],
    method: SteeringMethod | None = None,
    highlight: Literal["evidence", "wrong"] | None = "evidence",
    batch_size: int = 100,
) -> list[str]:
    """The model's answers, greedy, in batches of similar length."""
    order = sorted(range(len(trials)), key=lambda i: (trials[i].chat, len(trials[i].text)))
    answers = [""] * len(trials)
    shown = highlight if method is not None else None
    for i in range(0, len(order), batch_size):
        some = order[i : i + batch_size]
        prompts = [tokenized(model, trials[j], shown) for j in some]
        for j, out in zip(some, model.generate(prompts, steering=method, max_new_tokens=3), strict=True):
            answers[j] = out.text.strip()
    return answers


def share(answers: Sequence[str], wanted: Sequence[str | None]) -> Rate:
    """How many answers are exactly the wanted ones."""
    return Rate.of([a == b for a, b in zip(answers, wanted, strict=True)])


def demo_triples(n: int = 300, seed: int = 11, statements: tuple[int, int] = (2, 7)) -> list[ContrastiveTriple]:
    """Contrastive triples of this world, about development people only; the answer is the whole statement.

    A context has ``statements[0] <= number < statements[1]`` statements.
    """
    rng, triples = np.random.default_rng(seed), []
    for _ in range(n):
        facts = strangers(rng, int(rng.integers(*statements)), "development")
        at = int(rng.integers(len(facts)))
        context = world.write_context(facts, rng, fillers=0.1, style=0)
        present = {f.person for f in facts}
        stranger = next(f for f in strangers(rng, 20, "development") if f.person not in present)
        relation = facts[at].relation if rng.random() < 0.5 else stranger.relation
        irrelevant = Fact(stranger.person, relation, 0).question(rng)
        triples.append(ContrastiveTriple(context.text, Span(*context.spans[at]), facts[at].question(rng), irrelevant))
    return triples
