"""Halves of surrogate pairs: they are no characters, though a str can hold them, and no tokenizer or file takes them."""

from __future__ import annotations

import re

from seka_rag.errors import TokenizationError

_HALF = re.compile("[\ud800-\udfff]")


def check_characters(text: str) -> None:
    """Refuse a text with half of a surrogate pair.

    Raises:
        TokenizationError: says where it is.
    """
    if not text.isascii() and (half := _HALF.search(text)):
        raise TokenizationError(
            f"character {half.start()} of the text is half of a surrogate pair (U+{ord(half.group()):04X}), which is no "
            "character: read the text with the right encoding, or replace it"
        )


def mended(text: str) -> str:
    """The text with two halves that belong together made one character, and others replaced by U+FFFD."""
    if text.isascii() or not _HALF.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
