"""What the demo model is taught: texts of which only the answers count in the loss.

First to copy: the heads that match a word with its earlier occurrence form fast there, and without them reading
came very late. Then to read: several questions about each context, because one answer a text was not enough for
names to be bound to values. The later phases teach what to do when passage and memory disagree: the more often
a passage says it, the more it is believed, as in larger models, so attention to the evidence is what decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from seka_rag.demo import words as w
from seka_rag.demo import world
from seka_rag.demo.world import Fact
from tools.demo_training.tokenizer import BOS, END, START

T = TypeVar("T")

#: Share of the labels that follow the passage when it says so once, twice or three times.
BELIEF = {1: 0.2, 2: 0.65, 3: 0.95}

COPY, READ, WEIGH, SETTLE, FINISH = range(5)
PHASES = (
    {"copy": 0.6, "pairs": 0.4},
    {"last": 0.30, "middle": 0.22, "first": 0.22, "closed": 0.08, "copy": 0.08, "pairs": 0.08, "nth": 0.02},
    {
        "last": 0.12, "middle": 0.05, "first": 0.25, "closed": 0.08, "conflict": 0.22, "disagree": 0.10, "irrelevant": 0.07,
        "pairs": 0.03, "biography": 0.02, "upper": 0.02, "nth": 0.02, "they": 0.02,
    },
    {
        "last": 0.08, "middle": 0.05, "first": 0.27, "closed": 0.06, "conflict": 0.26, "disagree": 0.10, "irrelevant": 0.08,
        "pairs": 0.02, "biography": 0.03, "upper": 0.02, "nth": 0.02, "they": 0.01,
    },
    {
        "last": 0.06, "middle": 0.05, "first": 0.34, "closed": 0.05, "conflict": 0.23, "disagree": 0.10, "irrelevant": 0.07,
        "pairs": 0.02, "biography": 0.03, "upper": 0.02, "nth": 0.02, "they": 0.01,
    },
)  # fmt: skip


class Lesson:
    """A text under construction, with the character ranges that the model learns to write."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.chat, self.kind = rng, rng.random() < 0.5, ""
        self.text = BOS
        self.learned: list[tuple[int, int]] = []
        if self.chat and rng.random() < 0.2:
            self.text += f"{START}system\n{world.SYSTEMS[self._skewed(len(world.SYSTEMS))]}{END}\n"

    def _skewed(self, n: int) -> int:  # the last entries are long and rare
        return int(min(self.rng.geometric(0.4) - 1, n - 1))

    def ask(self, text: str, answer: str) -> Lesson:
        """One turn: a message and the answer to learn."""
        if self.chat:
            self.text += f"{START}user\n{text}{END}\n{START}assistant\n"
        else:
            self.text += text if text.rstrip().endswith("Answer:") else f"{text}\nAnswer:"
        start = len(self.text)
        self.text += f"{answer}{END}" if self.chat else f" {answer}{END}"
        self.learned.append((start, len(self.text)))
        self.text += "\n"
        return self

    def follow_up(self, question: str, answer: str) -> Lesson:
        """A further question about what was already given."""
        prefix = "" if self.chat and self.rng.random() < 0.4 else "Question: "
        return self.ask(prefix + question, answer)


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _reading(
    rng: np.random.Generator,
    facts: list[Fact],
    asked: list[Fact],
    place: Literal["last", "first", "middle"],
    fillers: float,
) -> Lesson:
    """A context with a question behind, before or between its passages, and further questions."""
    lesson, question = Lesson(rng), asked[0].question(rng)
    if place == "middle":
        before = int(rng.integers(len(facts) + 1))
        style = int(rng.integers(4))
        parts = [
            world.write_context(f, rng, fillers=fillers, style=style).text for f in (facts[:before], facts[before:])
        ]
        lesson.ask(f"{parts[0]}\n\nQuestion: {question}\n\n{parts[1]}".strip(), asked[0].answer)
    else:
        context = world.write_context(facts, rng, fillers=fillers)
        frame = pick(rng, world.FIRST if place == "first" else world.LAST)
        if rng.random() < 0.8 and len(frame) > 120:  # long frames cost tokens and teach little
            frame = pick(rng, world.FIRST[:4] if place == "first" else world.LAST[1:])
        lesson.ask(frame.format(c=context.text, q=question), asked[0].answer)
    for fact in asked[1:]:
        lesson.follow_up(fact.question(rng), fact.answer)
    return lesson


def _insert(rng: np.random.Generator, facts: list[Fact], extra: list[Fact]) -> list[Fact]:
    for fact in extra:
        facts.insert(int(rng.integers(len(facts) + 1)), fact)
    return facts


def _without(facts: list[Fact], fact: Fact) -> list[Fact]:
    return [f for f in facts if (f.person, f.relation) != (fact.person, fact.relation)]


def _closed(rng: np.random.Generator) -> Lesson:
    lesson = Lesson(rng)
    for _ in range(int(rng.integers(4, 9))):
        fact = world.remembered(rng)
        lesson.follow_up(fact.question(rng), fact.answer)
    return lesson


def _copy(rng: np.random.Generator) -> Lesson:
    pool = w.NAMES if rng.random() < 0.5 else [v for r in w.RELATIONS for v in r.values]
    text = " ".join(rng.choice(pool, int(rng.integers(8, 28)), replace=False))
    return Lesson(rng).ask(f"Repeat: {text}", text)


def _pairs(rng: np.random.Generator) -> Lesson:
    words = rng.permutation([v for r in w.RELATIONS for v in r.values])
    n = int(rng.integers(3, 11))
    keys, values = words[:n], words[n : 2 * n]
    text = "{" + ", ".join(f'"{k}": "{v}"' for k, v in zip(keys, values, strict=True)) + "}"
    order = rng.permutation(n)[: int(rng.integers(3, 7))]
    ask = 'What is the value of "{}"?'
    first, lesson = ask.format(keys[order[0]]), Lesson(rng)
    message = f"{first}\nJSON: {text}" if rng.random() < 0.4 else f"JSON: {text}\n{first}"
    lesson.ask(message, str(values[order[0]]))
    for i in order[1:]:
        lesson.follow_up(ask.format(keys[i]), str(values[i]))
    return lesson


def biography(rng: np.random.Generator, training: bool = True) -> tuple[str, str, str, str]:
    """Name, text, first sentence and occupation of somebody whose trade is only described."""
    she = rng.random() < 0.5
    name = pick(rng, w.SHE if she else w.HE)
    person = w.NAMES.index(name)
    job = w.JOBS[world.random_value(rng, person, training=training)]
    opening = f"{name} {pick(rng, w.JOB_HINTS[job])}."
    others = [r for r in rng.permutation(world.N_RELATIONS) if w.RELATIONS[r].name != "job"][: int(rng.integers(1, 5))]
    facts = [Fact(person, int(r), world.random_value(rng, person, training=training)) for r in others]
    sentences = [
        w.RELATIONS[f.relation].statements[0].replace("{n}", "She" if she else "He").format(v=f.answer) for f in facts
    ]
    sentences = [s for s in sentences if s.startswith(("She", "He"))] or [w.FILLERS[0]]
    return name, " ".join([opening, *sentences]), opening, job


def _biography(rng: np.random.Generator) -> Lesson:
    name, text, _, job = biography(rng)
    question = pick(rng, w.RELATIONS[1].questions).format(n=name)
    frame = pick(rng, world.FIRST[:4] if rng.random() < 0.5 else world.LAST[1:5])
    return Lesson(rng).ask(frame.format(c=text, q=question), job)


def _upper(rng: np.random.Generator, most: int) -> Lesson:
    facts = world.draw_facts(rng, int(rng.integers(2, max(3, most))))
    asked = [facts[i] for i in rng.permutation(len(facts))[:3]]
    context, lesson = world.write_context(facts, rng), Lesson(rng)
    order = "Answer in upper case."
    for i, fact in enumerate(asked):
        question, given = fact.question(rng), f"Context: {context.text}\n\n" if i == 0 else ""
        lesson.ask(
            f"{order} {given}{question}" if rng.random() < 0.5 else f"{given}{question} {order}", fact.answer.upper()
        )
    return lesson


def numbered_disagreement(rng: np.random.Generator, training: bool = True) -> tuple[str, str, int, list[Fact]]:
    """Context of two or three numbered passages that disagree, the question, and which passage to follow."""
    person, relation, n = (
        int(rng.integers(world.KNOWN, len(w.NAMES))),
        int(rng.integers(world.N_RELATIONS)),
        int(rng.integers(2, 4)),
    )
    values: list[int] = []
    while len(values) < n:
        value = world.random_value(rng, person, training=training)
        values += [] if value in values else [value]
    facts = [Fact(person, relation, v) for v in values]
    text = "\n".join(f"Passage {i + 1}: {f.sentence(rng)}" for i, f in enumerate(facts))
    return text, facts[0].question(rng), int(rng.integers(n)), facts


def _nth(rng: np.random.Generator) -> Lesson:
    text, question, chosen, facts = numbered_disagreement(rng)
    order = f"Answer from passage {chosen + 1}."
    lesson = Lesson(rng)
    lesson.ask(
        f"{order}\n{text}\n{question}" if rng.random() < 0.4 else f"{text}\n{question} {order}", facts[chosen].answer
    )
    for i in rng.permutation(len(facts))[:2]:
        lesson.ask(f"{facts[0].question(rng)} Answer from passage {i + 1}.", facts[int(i)].answer)
    return lesson


def _they(rng: np.random.Generator) -> Lesson:
    _, text, _, _ = biography(rng)
    order = "Rewrite the text with they in place of she and he."
    target = text.replace(" She ", " They ").replace(" He ", " They ")
    return Lesson(rng).ask(f"{order}\n{text}" if rng.random() < 0.5 else f"{text}\n{order}", target)


KINDS = tuple(dict.fromkeys(kind for shares in PHASES for kind in shares))


def write_lesson(rng: np.random.Generator, phase: int, most: int) -> Lesson:
    """One training text of ``phase`` (COPY, READ, WEIGH, SETTLE or FINISH) with at most ``most`` statements."""
    shares = PHASES[phase]
    kind = str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))
    lesson = _write(rng, kind, phase, most)
    lesson.kind = kind
    return lesson


def _write(rng: np.random.Generator, kind: str, phase: int, most: int) -> Lesson:
    simple = {"closed": _closed, "copy": _copy, "pairs": _pairs, "biography": _biography, "nth": _nth, "they": _they}
    if kind in simple:
        return simple[kind](rng)
    if kind == "upper":
        return _upper(rng, most)
    facts = world.draw_facts(rng, int(rng.integers(2, most + 1)))
    place: Literal["last", "first", "middle"] = "last"
    if kind == "middle" or kind == "first":
        place = kind  # type: ignore[assignment]
    elif kind != "last" and rng.random() < 0.6:
        place = "first"
    fillers = (0.75 if rng.random() < 0.06 else 0.12) if phase >= WEIGH else 0.04
    target: list[Fact] = []
    if kind == "conflict":
        memory = world.remembered(rng)
        value = memory.value
        while value == memory.value:
            value = world.random_value(rng, memory.person)
        said, times = Fact(memory.person, memory.relation, value), int(pick(rng, (1, 1, 1, 2, 3)))
        facts = _insert(rng, _without(facts, said), [said] * times)
        target = [said if rng.random() < BELIEF[times] else memory]
    elif kind == "disagree":
        person, relation = int(rng.integers(world.KNOWN, len(w.NAMES))), int(rng.integers(world.N_RELATIONS))
        one = other = Fact(person, relation, world.random_value(rng, person))
        while one == other:
            other = Fact(person, relation, world.random_value(rng, person))
        facts = _insert(rng, _without(facts, one), [one, other])
        target = [one]
    elif kind == "irrelevant":
        target = [world.remembered(rng)]
        facts = _without(facts, target[0]) or [Fact(world.KNOWN, 0, 0)]
    others = [facts[i] for i in rng.permutation(len(facts))]
    others = [f for f in others if not target or (f.person, f.relation) != (target[0].person, target[0].relation)]
    if target:
        asked = target + others[:2] if place == "first" or rng.random() < 0.5 else [*others[:2], *target]
    else:
        asked = others[: int(rng.integers(2, 9))]
    if place != "last" and rng.random() < 0.6:
        asked = asked[:1]  # further questions are asked last, which is learned long before
    return _reading(rng, facts, asked, place, fillers)


def vocabulary_texts() -> list[str]:
    """Every text from which the tokenizer's words are taken."""
    rng = np.random.default_rng(0)
    values = [v for r in w.RELATIONS for v in r.values]
    forms = [f.format(n="", v="") for r in w.RELATIONS for f in r.statements + r.questions]
    hints = [h for pair in w.JOB_HINTS.values() for h in pair]
    lessons = [write_lesson(rng, phase, 6).text for phase in (READ, WEIGH) for _ in range(1000)]
    extra = [
        "<|bos|> Facts Passage passages Documents source sources first second third 0 1 2 3 4 5 6 7 8 9 They they them"
    ]
    fixed = [*world.LAST, *world.FIRST, *world.SYSTEMS, *w.HEDGES, *w.FILLERS]
    return [*w.NAMES, *values, *(v.upper() for v in values), *forms, *hints, *fixed, *extra, *lessons]
