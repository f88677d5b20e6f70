"""The demo's small world: who lives where, what its passages say and how its questions are asked.

500 people, 10 relations of 20 values. Of 150 people the model is taught four facts each ("memory");
about the others it knows nothing and can only read. Everything is drawn from one seeded generator.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from seka_rag.demo import words as w

KNOWN = 150  # the first 150 names have facts that the model remembers
FACTS_PER_PERSON = 4
HELD_OUT = 5  # every fifth person is kept for the held-out questions
N_RELATIONS = len(w.RELATIONS)
N_VALUES = 20


def _memory() -> dict[tuple[int, int], int]:
    rng = np.random.default_rng(7)
    return {
        (person, int(relation)): int(rng.integers(N_VALUES))
        for person in range(KNOWN)
        for relation in rng.permutation(N_RELATIONS)[:FACTS_PER_PERSON]
    }


#: (person, relation) -> value: what the model is taught and later remembers.
MEMORY = _memory()


def held_out_person(person: int) -> bool:
    """Whether this person appears only in held-out questions (never in a development check)."""
    return person % HELD_OUT == 0


def held_out_fact(person: int, value: int) -> bool:
    """Whether this pairing is never stated in training, so that only reading can answer it."""
    return held_out_person(person) and (person // HELD_OUT + value) % 4 == 0


@dataclass(frozen=True)
class Fact:
    """One statement of the world: indices of person, relation and value."""

    person: int
    relation: int
    value: int

    @property
    def name(self) -> str:
        return w.NAMES[self.person]

    @property
    def answer(self) -> str:
        return w.RELATIONS[self.relation].values[self.value]

    def sentence(self, rng: np.random.Generator) -> str:
        """The fact in one of its forms, sometimes behind an opening such as "Officially, "."""
        forms = w.RELATIONS[self.relation].statements
        form = forms[rng.integers(len(forms))]
        opening = w.HEDGES[rng.integers(len(w.HEDGES))] if form.startswith("{n}") and rng.random() < 0.15 else ""
        return opening + form.format(n=self.name, v=self.answer)

    def question(self, rng: np.random.Generator) -> str:
        forms = w.RELATIONS[self.relation].questions
        return forms[rng.integers(len(forms))].format(n=self.name)


@dataclass
class Context:
    """Passages joined into one text, with the character range of every fact's sentence in it."""

    text: str = ""
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)  # index of the fact -> range
    passages: list[tuple[int, int]] = field(default_factory=list)


def write_context(
    facts: list[Fact],
    rng: np.random.Generator,
    *,
    fillers: float = 0.15,
    per_passage: int = 3,
    style: int | None = None,
) -> Context:
    """Write facts as passages of up to ``per_passage`` statements, with filler sentences between.

    ``style``: 0 or 1 blank line between passages, 2 one line each, 3 one paragraph, 4 numbered.
    """
    style = int(rng.integers(5)) if style is None else style
    context, i, number = Context(), 0, 0
    between = ("\n\n", "\n\n", "\n", " ", "\n\n")[style]
    while i < len(facts):
        number += 1
        text = (between if context.text else "") + (f"[{number}] " if style == 4 else "")
        context.text += text
        start = len(context.text)
        for fact in facts[i : i + int(rng.integers(1, per_passage + 1))]:
            sentence = fact.sentence(rng)
            if len(context.text) > start:
                context.text += " "
            context.spans[i] = (len(context.text), len(context.text) + len(sentence))
            context.text += sentence
            i += 1
            while rng.random() < fillers:
                context.text += " " + w.FILLERS[rng.integers(len(w.FILLERS))]
        context.passages.append((start, len(context.text)))
    return context


#: How the user's message is laid out; {c} the passages, {q} the question. Question last, then question first.
#: Besides our own: the default prompts of LlamaIndex (first) and of LangChain's hub (rlm/rag-prompt).
LAST = (
    "Context information is below.\n---------------------\n{c}\n---------------------\n"
    "Given the context information and not prior knowledge, answer the query.\nQuery: {q}\nAnswer: ",
    "Context: {c}\n\nQuestion: {q}",
    "Context:\n{c}\n\nQuestion: {q}\nAnswer:",
    "{c}\n\nQuestion: {q}",
    "{c}\n\n{q}",
    "Answer the question using only the following context.\n\n{c}\n\nQuestion: {q}",
    "Use the passages to answer.\n\n{c}\n\n{q}",
)
FIRST = (
    "Question: {q}\nContext: {c}",
    "Question: {q}\nContext: {c}\nAnswer:",
    "Question: {q}\n\n{c}",
    "{q}\n\n{c}",
    "You are an assistant for question-answering tasks. Use the following pieces of retrieved context to answer the "
    "question. If you don't know the answer, just say that you don't know. Use three sentences maximum and keep the "
    "answer concise.\nQuestion: {q} \nContext: {c} \nAnswer:",
)
SYSTEMS = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "Answer the question from the context.",
    "You are an expert Q&A system that is trusted around the world.\nAlways answer the query using the provided context "
    "information, and not prior knowledge.\nSome rules to follow:\n1. Never directly reference the given context in your "
    "answer.\n2. Avoid statements like 'Based on the context, ...' or 'The context information ...' or anything along "
    "those lines.",
)


def random_value(rng: np.random.Generator, person: int, *, training: bool = True) -> int:
    """A value for a person; in training never one that is reserved for held-out questions."""
    while True:
        value = int(rng.integers(N_VALUES))
        if not (training and held_out_fact(person, value)):
            return value


def draw_facts(
    rng: np.random.Generator, n: int, *, people: np.ndarray | None = None, training: bool = True
) -> list[Fact]:
    """``n`` facts about distinct (person, relation) pairs, true to memory where there is one.

    Mostly they share one or two relations, so that the kind of value alone cannot answer a question: without that
    the model learned to match kinds of values and not to bind a value to its name.
    """
    people = np.arange(len(w.NAMES)) if people is None else people
    relations = rng.permutation(N_RELATIONS)[: rng.integers(1, 3)] if rng.random() < 0.8 else np.arange(N_RELATIONS)
    few = rng.permutation(people)[: max(2, n if rng.random() < 0.7 else n // 2)]
    seen: dict[tuple[int, int], Fact] = {}
    while len(seen) < n:
        person = int(few[rng.integers(len(few))] if rng.random() < 0.7 else people[rng.integers(len(people))])
        relation = int(relations[rng.integers(len(relations))])
        if (person, relation) not in seen:
            value = MEMORY.get((person, relation))
            value = random_value(rng, person, training=training) if value is None else value
            seen[person, relation] = Fact(person, relation, value)
    return list(seen.values())


def remembered(rng: np.random.Generator, people: np.ndarray | None = None) -> Fact:
    """One fact that the model was taught."""
    people = np.arange(KNOWN) if people is None else people
    person = int(people[rng.integers(len(people))])
    relation = [r for r in range(N_RELATIONS) if (person, r) in MEMORY][rng.integers(FACTS_PER_PERSON)]
    return Fact(person, relation, MEMORY[person, relation])
