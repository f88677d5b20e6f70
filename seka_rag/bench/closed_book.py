"""Which facts a model knows: it answers without passages, in several wordings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from seka_rag.hf.types import Tokenizer
from seka_rag.learning.recall import recalled_facts
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
    """The facts that a model knows, which is to answer them: see ``recalled_facts``."""
    return recalled_facts(
        model.hf_model,
        model.tokenizer,
        facts,
        at_least=at_least,
        wordings=wordings,
        batch_size=batch_size,
        progress=progress,
    )


def first_tokens(tokenizer: Tokenizer, cloze: str, answers: Iterable[str]) -> set[int]:
    """The tokens that follow the cloze when an answer does."""
    before = tokenizer(cloze, add_special_tokens=False)["input_ids"]
    whole = [tokenizer(f"{cloze} {answer}", add_special_tokens=False)["input_ids"] for answer in answers]
    return {ids[len(before)] for ids in whole if ids[: len(before)] == before and len(ids) > len(before)}
