"""Conversations for chat templates with fewer roles: the system's words in the user's message, roles that alternate.

So do the cards of such models (Gemma 2, some of Mistral): the words stay, and so do their highlights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seka_rag.text.prompt import Prompt

Turn = Mapping[str, Any]
_BETWEEN = "\n\n"
NO_SYSTEM = "the model's chat template takes no system message here: its words stand at the beginning of the user's"
ALTERNATING = "the model's chat template wants roles to alternate: neighbouring messages of one role were joined"


def simpler(messages: Sequence[Turn]) -> Iterator[tuple[list[Turn], tuple[str, ...]]]:
    """The conversation in forms that ask less of a template, the nearest first, each with what it changed.

    Only messages of plain text are joined; others are left as they are.
    """
    if isinstance(messages, str | Prompt) or not all(isinstance(m, Mapping) for m in messages):
        return
    told: tuple[str, ...] = ()
    turns = list(messages)
    without = _without_system(turns)
    if without is not None:
        turns, told = without, (NO_SYSTEM,)
        yield turns, told
    joined = _alternating(turns)
    if len(joined) < len(turns):
        yield joined, (*told, ALTERNATING)


def _without_system(turns: Sequence[Turn]) -> list[Turn] | None:
    """Each system message at the beginning of the user's message that follows it; None if there is none to move."""
    kept: list[Turn] = []
    waiting: list[Turn] = []
    moved = False
    for turn in turns:
        if turn.get("role") in ("system", "developer") and _is_text(turn):
            waiting.append(turn)
        elif waiting and turn.get("role") == "user" and _is_text(turn):
            kept.append(_join([*waiting, turn], turn))
            waiting, moved = [], True
        else:
            kept.append(turn)
    if waiting:  # nobody speaks after it
        kept.append(_join(waiting, {"role": "user"}))
        moved = True
    return kept if moved else None


def _alternating(turns: Sequence[Turn]) -> list[Turn]:
    kept: list[Turn] = []
    for turn in turns:
        if kept and kept[-1].get("role") == turn.get("role") in ("user", "assistant") and _is_text(kept[-1], turn):
            kept[-1] = _join([kept[-1], turn], turn)
        else:
            kept.append(turn)
    return kept


def _join(turns: Sequence[Turn], like: Turn) -> Turn:
    texts = [Prompt("") + turn["content"] for turn in turns if str(turn["content"]).strip()]
    return {**like, "content": Prompt.join(texts, _BETWEEN)}


def _is_text(*turns: Turn) -> bool:
    return all(turn.keys() == {"role", "content"} and isinstance(turn["content"], str | Prompt) for turn in turns)
