"""Instructions beside a text: what is to be done with it."""

from __future__ import annotations

import random

from seka_rag.learning.domains import DOMAINS
from seka_rag.learning.sampling import Sentence, distinct, joined, name_of, small_talk, state
from seka_rag.learning.triples import ContrastiveTriple

#: What is to be done, and what to ask so that the instruction is the answer.
_ACTIONS = {
    "form": (
        ("answer in upper case", "answer in one word", "answer with a number only", "write the answer in brackets",
         "answer in a full sentence", "put the answer in quotation marks", "answer in French", "answer as a list"),
        ("In which form is the answer to be given?", "How should the answer look?", "What form must the answer have?"),
    ),
    "change": (
        ("replace every name with a letter", "write they in place of she and he", "leave out all numbers",
         "put every verb into the past", "join all sentences into one", "write all numbers as words",
         "remove every adjective", "turn every statement into a question"),
        ("How is the text to be rewritten?", "What is to be changed in the text?", "Which change does the text need?"),
    ),
    "length": (
        ("use at most twenty words", "write exactly two sentences", "keep it under fifty characters",
         "say it in three words", "write one short paragraph", "stop after the first sentence"),
        ("How long may the answer be?", "What is the limit on length?", "How much should be written?"),
    ),
    "source": (
        ("use only the second passage", "ignore the last sentence", "rely on the first sentence alone",
         "quote the text word for word", "do not use outside knowledge", "name the sentence that you used"),
        ("Which part of the text is to be used?", "What may the answer rely on?", "How is the text to be used?"),
    ),
}  # fmt: skip
_FRAMES = ("Please {}.", "Your task: {}.", "Instruction: {}.", "You must {}.", "When you reply, {}.", "Remember to {}.")


def instruction_triples(n: int = 300, seed: int = 0) -> list[ContrastiveTriple]:
    """``n`` triples whose answer is an instruction that stands before, within or behind a text.

    Raises:
        LearningError: see ``distinct``.
    """
    return distinct(_triple, n, seed)


def _triple(rng: random.Random, attempt: int) -> ContrastiveTriple:
    kind = rng.choice(list(_ACTIONS))
    actions, questions = _ACTIONS[kind]
    action = rng.choice(actions)
    before, after = rng.choice(_FRAMES).split("{}")
    instruction = Sentence.of(before, action, after)
    domain = rng.choice(DOMAINS)
    text = [state(rng, fact, name_of(rng, domain)) for fact in rng.sample(domain.facts, rng.randint(2, 3))]
    parts = [*text, *small_talk(rng, rng.randint(0, 1))]
    at = rng.choice((0, len(parts), rng.randint(0, len(parts))))
    parts.insert(at, instruction)
    context, span = joined(parts, instruction)
    other = rng.choice([k for k in _ACTIONS if k != kind])
    return ContrastiveTriple(context, span, rng.choice(questions), rng.choice(_ACTIONS[other][1]))
