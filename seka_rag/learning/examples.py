"""Prompts at which the next token shows what a model follows: the evidence in front of it, or its memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seka_rag.hf.chat import render_chat
from seka_rag.hf.tokens import TokenizedPrompt, tokenize
from seka_rag.hf.types import Tokenizer
from seka_rag.questions.facts import Fact
from seka_rag.questions.records import Record
from seka_rag.text.prompt import Prompt


@dataclass(frozen=True)
class Example:
    """A prompt that ends where the answer begins.

    Attributes:
        prompt: tokens with the weights of their highlights.
        evidence: first token of the answer that the highlighted evidence gives, or would give.
        remembered: first token of the answer that the model gives from memory.
    """

    prompt: TokenizedPrompt
    evidence: int
    remembered: int


def user_message(tokenizer: Tokenizer, message: Prompt) -> TokenizedPrompt:
    """A prompt as the user's message, through the chat template if the tokenizer has one."""
    if not tokenizer.chat_template:
        return tokenize(tokenizer, message)
    return render_chat(tokenizer, [{"role": "user", "content": message}]).tokenize(tokenizer)


def answer_example(
    tokenizer: Tokenizer, message: Prompt, opening: str, evidence: str, remembered: str
) -> Example | None:
    """An example of one user message, whose answer opens with given words.

    Args:
        message: passages and question, with highlights. It goes through the chat template, if the tokenizer has one.
        opening: how the answer begins, up to where the two answers differ ("The capital of France is").
        evidence, remembered: the answers that follow the opening.

    Returns:
        None if the two answers begin with the same token, or do not follow the opening as whole tokens.
    """
    start = tokenizer(opening, add_special_tokens=False)["input_ids"]
    first, second = (_next(tokenizer, opening, start, answer) for answer in (evidence, remembered))
    if first is None or second is None or first == second:
        return None
    head = user_message(tokenizer, message)
    if not tokenizer.chat_template:
        start = tokenizer(f" {opening}", add_special_tokens=False)["input_ids"]
    end = head.offsets[-1][1]
    offsets = [*head.offsets, *[(end, end)] * len(start)]
    return Example(TokenizedPrompt([*head.ids, *start], [*head.weights, *[0.0] * len(start)], offsets), first, second)


def record_examples(tokenizer: Tokenizer, records: Sequence[Record], facts: Mapping[str, Fact]) -> list[Example]:
    """Examples of records about facts (conflict, irrelevant): question and passages as in ``Rag``, then the fact's cloze.

    Args:
        facts: by id, which each record's ``meta["fact"]`` names.
    """
    found = []
    for record in records:
        fact = facts[record.meta["fact"]]
        evidence = record.gold_context_answer or record.meta["false_answer"]
        example = answer_example(tokenizer, record.message, fact.cloze, evidence[0], fact.answers[0])
        if example is not None:
            found.append(example)
    return found


def closed_book_example(tokenizer: Tokenizer, fact: Fact, other: str) -> Example | None:
    """The fact's first question without passages: ``evidence`` is a false answer, so a negative margin means known."""
    return answer_example(tokenizer, Prompt(fact.questions[0]), fact.cloze, other, fact.answers[0])


def digest_of(examples: Sequence[Example]) -> str:
    """A short name for exactly these examples."""
    content = [(e.prompt.ids, e.prompt.weights, e.evidence, e.remembered) for e in examples]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _next(tokenizer: Tokenizer, opening: str, start: Sequence[int], answer: str) -> int | None:
    ids: list[int] = tokenizer(f"{opening} {answer}", add_special_tokens=False)["input_ids"]
    return ids[len(start)] if len(ids) > len(start) and ids[: len(start)] == list(start) else None
