"""Which facts a model knows: it answers without passages, in several wordings; and how much it prefers the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from seka_rag.errors import SettingError
from seka_rag.hf.tokens import TokenizedPrompt, by_length, end_texts, pad, pad_id
from seka_rag.hf.types import Tokenizer
from seka_rag.model.steered import SteeredModel
from seka_rag.questions.answers import contains_answer
from seka_rag.questions.facts import Fact

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Recall:
    """What a model answers from memory to the first questions of a fact, and which answers hold the true one."""

    fact: Fact
    answers: tuple[str, ...]

    @property
    def right(self) -> tuple[bool, ...]:
        return tuple(contains_answer(answer, self.fact.answers) for answer in self.answers)


def recall(
    model: SteeredModel,
    facts: Sequence[Fact],
    *,
    wordings: int = 3,
    batch_size: int = 32,
    max_new_tokens: int = 24,
    progress: Progress | None = None,
) -> list[Recall]:
    """Greedy answers of the unsteered model to the first ``wordings`` questions of each fact.

    The question alone is the user's message; a model without a chat template continues "Question: ... Answer:".
    Questions of like length share a batch.

    Args:
        progress: called with the number of answers that are ready, and of all.

    Raises:
        SettingError: more wordings than a fact has questions, or a count below 1.
    """
    if min(wordings, batch_size, max_new_tokens) < 1:
        raise SettingError("wordings, batch_size and max_new_tokens must be at least 1")
    short = next((fact for fact in facts if len(fact.questions) < wordings), None)
    if short is not None:
        raise SettingError(f"fact {short.id!r} has {len(short.questions)} questions, fewer than wordings={wordings}")
    prompts = [_closed_book(model, question) for fact in facts for question in fact.questions[:wordings]]
    texts, done = [""] * len(prompts), 0
    for some in by_length(prompts, batch_size):
        for i, out in zip(some, _answers(model, [prompts[i] for i in some], max_new_tokens), strict=True):
            texts[i] = out
        done += len(some)
        if progress is not None:
            progress(done, len(prompts))
    return [Recall(fact, tuple(texts[i * wordings : (i + 1) * wordings])) for i, fact in enumerate(facts)]


def known_facts(
    model: SteeredModel,
    facts: Sequence[Fact],
    *,
    at_least: int = 2,
    wordings: int = 3,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> list[Fact]:
    """The facts that a model knows: of ``wordings`` questions, ``at_least`` get an answer that holds the true one.

    Raises:
        SettingError: ``at_least`` is not between 1 and ``wordings``; or as in ``recall``.
    """
    if not 1 <= at_least <= wordings:
        raise SettingError(f"at_least={at_least}: give a number from 1 to wordings={wordings}")
    recalled = recall(model, facts, wordings=wordings, batch_size=batch_size, progress=progress)
    return [r.fact for r in recalled if sum(r.right) >= at_least]


@torch.inference_mode()
def margins(
    model: SteeredModel, facts: Sequence[Fact], *, batch_size: int = 32, progress: Progress | None = None
) -> list[float]:
    """How much likelier the true answer of each fact is than its likeliest false one, in nats, by first tokens.

    The unsteered model completes the fact's cloze; where it has a chat template, as the beginning of its answer to
    "Complete the sentence: ...". False answers that begin with a token of a true one are left out; the margin is nan if
    none is left.
    """
    prompts = [_completing(model, fact.cloze) for fact in facts]
    found, done = [math.nan] * len(facts), 0
    device = next(model.hf_model.parameters()).device
    for some in by_length(prompts, batch_size):
        batch = pad([prompts[i] for i in some], pad_id(model.tokenizer), side="right")
        ids, mask = (t.to(device) for t in (batch.input_ids, batch.attention_mask))
        logits = model.hf_model(input_ids=ids, attention_mask=mask).logits  # [B, T, V]
        last = batch.attention_mask.sum(1) - 1
        scores = logits[torch.arange(len(some)), last].float().cpu()  # [B, V]; differences are those of log-softmax
        for row, i in enumerate(some):
            true = first_tokens(model.tokenizer, facts[i].cloze, facts[i].answers)
            false = first_tokens(model.tokenizer, facts[i].cloze, (a for g in facts[i].alternatives for a in g)) - true
            if true and false:
                found[i] = float(scores[row, list(true)].max() - scores[row, list(false)].max())
        done += len(some)
        if progress is not None:
            progress(done, len(prompts))
    return found


def _completing(model: SteeredModel, cloze: str) -> TokenizedPrompt:
    cloze_ids = model.tokenizer(cloze, add_special_tokens=False)["input_ids"]
    if not model.tokenizer.chat_template:
        return model.tokenize(cloze)
    asked = model.tokenize_chat([{"role": "user", "content": f"Complete the sentence: {cloze}"}])
    return TokenizedPrompt(
        [*asked.ids, *cloze_ids], [0.0] * (len(asked) + len(cloze_ids)), [(0, 0)] * (len(asked) + len(cloze_ids))
    )


def first_tokens(tokenizer: Tokenizer, cloze: str, answers: Iterable[str]) -> set[int]:
    """The tokens that follow the cloze when an answer does."""
    before = tokenizer(cloze, add_special_tokens=False)["input_ids"]
    whole = [tokenizer(f"{cloze} {answer}", add_special_tokens=False)["input_ids"] for answer in answers]
    return {ids[len(before)] for ids in whole if ids[: len(before)] == before and len(ids) > len(before)}


def _closed_book(model: SteeredModel, question: str) -> TokenizedPrompt:
    if model.tokenizer.chat_template:
        return model.tokenize_chat([{"role": "user", "content": question}])
    return model.tokenize(f"Question: {question}\nAnswer:")


def _answers(model: SteeredModel, prompts: Sequence[TokenizedPrompt], max_new_tokens: int) -> list[str]:
    stop = end_texts(model.tokenizer)
    outs = model.generate(list(prompts), steering=None, max_new_tokens=max_new_tokens, stop=stop)
    return [out.text.strip() for out in outs]
