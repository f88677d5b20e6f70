"""Thoughts that some models write before they answer, between ``<think>`` and ``</think>``."""

from __future__ import annotations

from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"


class ReadThoughts(NamedTuple):
    """What a model thought, None if nothing, and its answer."""

    thoughts: str | None
    answer: str


def split_thoughts(text: str, *, opened: bool = False) -> ReadThoughts:
    """The thoughts that a text begins with, and what follows them: nothing while they go on.

    Args:
        opened: the prompt ends with ``<think>``, so the text begins within thoughts.

    >>> split_thoughts("<think>\\nA port?\\n</think>\\n\\n8443").answer
    '8443'
    """
    start = text.lstrip()
    if start.startswith(OPEN):
        inner = start.removeprefix(OPEN)
    elif opened:
        inner = text
    else:
        return ReadThoughts(None, text)
    thoughts, closed, answer = inner.partition(CLOSE)
    return ReadThoughts(thoughts.strip(), answer.lstrip() if closed else "")


def visible_answer(text: str, *, opened: bool = False) -> str:
    """What of an unfinished text is surely answer."""
    start = text.lstrip()
    if not opened and start and OPEN.startswith(start):  # it may become the mark
        return ""
    return split_thoughts(text, opened=opened).answer
