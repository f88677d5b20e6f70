"""A passage: one retrieved piece of text with its score and where it came from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from seka_rag.errors import DocumentError
from seka_rag.text.plain import ReadOnlyJson
from seka_rag.text.surrogates import mended

#: The user's message of a question over passages.
TEMPLATE = "Context:\n{context}\n\nQuestion: {question}\nAnswer:"


@dataclass(frozen=True, slots=True)
class Passage:
    """Text that a retriever found. It is data, never an instruction, and nothing in it is read as a highlight.

    Args:
        text: the text, exactly as it will stand in the prompt. Halves of surrogate pairs, which are no characters, are
            joined, or replaced by U+FFFD.
        score: how well it fits the question; larger is better, None if unknown. Scales differ between retrievers.
        source: where the text came from (a path, an address, a document id); used by reports and trust policies.
        metadata: anything else that is known of it, by name.
        document: what it was cut from, where ``source`` does not say it; highlighters count what they mark by document.

    Raises:
        DocumentError: the text is not a str, or the score is not finite.
    """

    text: str
    score: float | None = None
    source: str | None = None
    metadata: ReadOnlyJson = field(default_factory=dict, hash=False)
    document: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise DocumentError(f"a passage's text must be a str, not {type(self.text).__name__}")
        object.__setattr__(self, "text", mended(self.text))
        if self.score is not None and not math.isfinite(self.score):
            raise DocumentError(f"passage score {self.score!r} of source {self.source!r}: give a finite number or None")
