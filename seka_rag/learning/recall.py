"""What a model answers from memory: questions about facts, without passages, in several wordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from seka_rag.errors import SettingError
from seka_rag.hf.tokens import TokenizedPrompt, by_length, tokenize
from seka_rag.hf.types import Tokenizer
from seka_rag.learning.answering import generate
from seka_rag.learning.examples import user_message
from seka_rag.questions.answers import contains_answer
from seka_rag.questions.facts import Fact
from seka_rag.text.prompt import Prompt


@dataclass(frozen=True)
class Recall:
    """What a model answers from memory to the first questions of a fact, and which answers hold the true one."""

    fact: Fact
    answers: tuple[str, ...]

    @property
    def right(self) -> tuple[bool, ...]:
        return tuple(contains_answer(answer, self.fact.answers) for answer in self.answers)


def recall(
    hf_model: nn.Module,
    tokenizer: Tokenizer,
    facts: Sequence[Fact],
    *,
    wordings: int = 3,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[Recall]:
    """Greedy answers of the unsteered model to the first ``wordings`` questions of each fact.

    The question alone is the user's message; a model without a chat template continues "Question: ... Answer:".
    Questions of like length share a batch.

    Args:
        progress: called with the number of answers that are ready, and of all.

    Raises:
        SettingError: more wordings than a fact has questions, or a count below 1.
    """
    if min(wordings, batch_size) < 1:
        raise SettingError("wordings and batch_size must be at least 1")
    short = next((fact for fact in facts if len(fact.questions) < wordings), None)
    if short is not None:
        raise SettingError(f"fact {short.id!r} has {len(short.questions)} questions, fewer than wordings={wordings}")
    prompts = [_closed_book(tokenizer, question) for fact in facts for question in fact.questions[:wordings]]
    texts, done = [""] * len(prompts), 0
    for some in by_length(prompts, batch_size):
        found = generate(hf_model, tokenizer, [prompts[i] for i in some])
        for i, (text, _) in zip(some, found, strict=True):
            texts[i] = text.strip()
        done += len(some)
        if progress is not None:
            progress(done, len(prompts))
    return [Recall(fact, tuple(texts[i * wordings : (i + 1) * wordings])) for i, fact in enumerate(facts)]


def recalled_facts(
    hf_model: nn.Module,
    tokenizer: Tokenizer,
    facts: Sequence[Fact],
    *,
    at_least: int = 2,
    wordings: int = 3,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[Fact]:
    """The facts that a model answers: of ``wordings`` questions, ``at_least`` get an answer that holds the true one.

    Raises:
        SettingError: ``at_least`` is not between 1 and ``wordings``; or as in ``recall``.
    """
    if not 1 <= at_least <= wordings:
        raise SettingError(f"at_least={at_least}: give a number from 1 to wordings={wordings}")
    found = recall(hf_model, tokenizer, facts, wordings=wordings, batch_size=batch_size, progress=progress)
    return [r.fact for r in found if sum(r.right) >= at_least]


def _closed_book(tokenizer: Tokenizer, question: str) -> TokenizedPrompt:
    if tokenizer.chat_template:
        return user_message(tokenizer, Prompt(question))
    return tokenize(tokenizer, Prompt(f"Question: {question}\nAnswer:"))
