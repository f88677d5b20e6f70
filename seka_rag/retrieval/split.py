"""Cutting documents into passages at the borders of paragraphs and sentences."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from seka_rag.errors import DocumentError
from seka_rag.retrieval.documents import Document
from seka_rag.text.passages import Passage
from seka_rag.text.sentences import paragraphs, sentences
from seka_rag.text.spans import Span


def split(documents: Sequence[Document], max_chars: int = 800, overlap: int = 0) -> list[Passage]:
    """Cut documents into passages of at most ``max_chars`` characters.

    Whole paragraphs are put together as long as they fit. A paragraph that is too long alone is cut between
    sentences, and a sentence that is too long alone between words (or, without spaces, anywhere).

    Args:
        max_chars: largest length of a passage, at least 1.
        overlap: begin each passage with as many whole last sentences of the one before as have at most this many
            characters, in [0, max_chars). It gives way where the next piece would not fit otherwise.

    Returns:
        Passages in the order of the text. ``metadata`` holds the document's and ``start`` and ``end``, so that
        ``passage.text == document.text[start:end]``, and ``page`` (from 1, of its first character) for a pdf.

    Raises:
        DocumentError: an argument out of range.
    """
    if isinstance(documents, Document):
        raise DocumentError("split takes a list of documents: give [document]")
    if max_chars < 1:
        raise DocumentError(f"max_chars={max_chars}: give at least 1")
    if not 0 <= overlap < max_chars:
        raise DocumentError(f"overlap={overlap}: give a number of characters in [0, max_chars={max_chars})")
    return [
        _passage(document, start, end)
        for document in documents
        for start, end in _ranges(document.text, max_chars, overlap)
    ]


def _ranges(text: str, max_chars: int, overlap: int) -> Iterator[tuple[int, int]]:
    pieces, units = _pieces_and_units(text, max_chars)
    starts = [piece.start for piece in pieces]
    start = end = -1
    for unit in units:
        if start >= 0 and unit.end - start <= max_chars:
            end = unit.end
            continue
        if start >= 0:
            yield start, end
            # the earliest sentence after the last start that keeps within both limits
            earliest = max(start + 1, end - overlap, unit.end - max_chars)
            at = bisect_left(starts, earliest)
            start = starts[at] if overlap and at < len(starts) else unit.start
            start = min(start, unit.start)
        else:
            start = unit.start
        end = unit.end
    if start >= 0:
        yield start, end


def _pieces_and_units(text: str, max_chars: int) -> tuple[list[Span], list[Span]]:
    """Pieces: sentences, cut where too long. Units: paragraphs that fit, else their pieces. Both in order."""
    pieces = [piece for sentence in sentences(text) for piece in _cut(text, sentence, max_chars)]
    starts = [piece.start for piece in pieces]
    units: list[Span] = []
    for paragraph in paragraphs(text):
        if len(paragraph) <= max_chars:
            units.append(paragraph)
        else:
            units += pieces[bisect_left(starts, paragraph.start) : bisect_left(starts, paragraph.end)]
    return pieces, units


def _cut(text: str, sentence: Span, max_chars: int) -> Iterator[Span]:
    start = sentence.start
    while sentence.end - start > max_chars:
        # a space at `max_chars` still leaves a piece that fits
        space = max(text.rfind(c, start + 1, start + max_chars + 1) for c in " \n\t")
        end = space if space > 0 else start + max_chars
        yield Span(start, start + len(text[start:end].rstrip()))
        start = end
        while text[start].isspace():  # ends: a sentence's last character is none
            start += 1
    yield Span(start, sentence.end)


def _passage(document: Document, start: int, end: int) -> Passage:
    metadata = {key: value for key, value in document.metadata.items() if key != "page_starts"}
    metadata |= {"start": start, "end": end}
    if isinstance(pages := document.metadata.get("page_starts"), Sequence) and pages:
        metadata["page"] = bisect_right(pages, start)
    return Passage(document.text[start:end], None, document.source, metadata)
