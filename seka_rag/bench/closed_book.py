"""Which facts a model knows: it answers without passages, in several wordings; and how much it prefers the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch

from seka_rag.errors import SettingError
from seka_rag.hf.tokens import TokenizedPrompt, by_length, pad, pad_id
from seka_rag.hf.types import Tokenizer
from seka_rag.learning.recall import recall
from seka_rag.model.steered import SteeredModel
from seka_rag.questions.facts import Fact

Progress = Callable[[int, int], None]


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
    found = recall(model.hf_model, model.tokenizer, facts, wordings=wordings, batch_size=batch_size, progress=progress)
    return [r.fact for r in found if sum(r.right) >= at_least]


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
