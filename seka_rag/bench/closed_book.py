"""Which facts a model knows: it answers without passages, in several wordings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from seka_rag.errors import SettingError
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


def first_tokens(tokenizer: Tokenizer, cloze: str, answers: Iterable[str]) -> set[int]:
    """The tokens that follow the cloze when an answer does."""
    before = tokenizer(cloze, add_special_tokens=False)["input_ids"]
    whole = [tokenizer(f"{cloze} {answer}", add_special_tokens=False)["input_ids"] for answer in answers]
    return {ids[len(before)] for ids in whole if ids[: len(before)] == before and len(ids) > len(before)}
