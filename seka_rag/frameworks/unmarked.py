"""The one place that decides what happens where passages were retrieved and nothing in them was marked."""

from __future__ import annotations

import logging
import threading
import warnings
from dataclasses import replace
from typing import Literal, get_args

from seka_rag.errors import SettingError, SteeringError
from seka_rag.frameworks.highlights import Highlights
from seka_rag.frameworks.instructions import INSTRUCTIONS, QUESTION

OnUnmarked = Literal["warn", "raise", "ignore"]

NOTHING_CHOSEN = (
    "the highlighter chose nothing in the retrieved passages: no text in them fits the question, or none may be "
    "highlighted. Choose another highlighter=..., or look at its trust policy"
)
#: Causes that are remembered. Beyond this many, an old one may be told again.
_MOST_CAUSES = 1024

logger = logging.getLogger("seka_rag")
_known: dict[str, None] = {}
_lock = threading.Lock()


class UnmarkedWarning(UserWarning):
    """Passages were retrieved, and the model answers without any of them highlighted."""


def as_on_unmarked(value: object) -> OnUnmarked:
    """The setting, checked.

    Raises:
        SettingError: none of the three.
    """
    modes: tuple[OnUnmarked, ...] = get_args(OnUnmarked)
    for mode in modes:
        if value == mode:
            return mode
    raise SettingError(f"on_unmarked={value!r}: use 'warn', 'raise' or 'ignore'")


def decide(highlights: Highlights, mode: OnUnmarked) -> Highlights:
    """The highlights with the reason among their warnings, if passages were there and nothing is marked.

    The reason says what to change. With "warn" it is also logged and warned of, once for each cause in this process.

    Raises:
        SteeringError: with "raise".
    """
    reason = highlights.unmarked
    if reason is None or any(span.source not in (INSTRUCTIONS, QUESTION) for _, span in highlights.spans):
        return replace(highlights, unmarked=None)
    if mode == "raise":
        raise SteeringError(f"passages were retrieved and nothing is highlighted: {reason}")
    if mode == "warn" and _is_new(reason):
        logger.warning("passages were retrieved and nothing is highlighted: %s", reason)
        warnings.warn(
            f"passages were retrieved and nothing is highlighted: {reason} (on_unmarked='raise' makes this an error, "
            "'ignore' silences it)",
            UnmarkedWarning,
            stacklevel=2,
        )
    told = any(reason in warning for warning in highlights.warnings)
    return replace(highlights, warnings=highlights.warnings if told else (*highlights.warnings, reason), unmarked=None)


def forget_causes() -> None:
    """Tell every cause anew."""
    with _lock:
        _known.clear()


def _is_new(reason: str) -> bool:
    with _lock:
        if reason in _known:
            return False
        _known[reason] = None
        if len(_known) > _MOST_CAUSES:
            del _known[next(iter(_known))]
        return True
