"""Citations for frameworks: which documents stand in the messages of a call, and which of them the answer rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Literal

from seka_rag.errors import SettingError
from seka_rag.model.citations import Citation, Excerpt, excerpts_of
from seka_rag.text.provenance import Placement
from seka_rag.text.spans import Span, shift

#: Whether an answer names the documents that it rests on; "text": with the cited sentences.
CitationMode = bool | Literal["text"]


def as_citation_mode(value: object) -> CitationMode:
    """The setting, checked.

    Raises:
        SettingError: neither a bool nor "text".
    """
    if not (isinstance(value, bool) or value == "text"):
        raise SettingError(f"citations={value!r}: use True, False, or 'text' for the cited sentences as well")
    return value


@dataclass(frozen=True)
class CitedDocument:
    """A document as citations name it.

    Attributes:
        id, source, title: whatever is known of these.
        start: where the passage that was retrieved begins in it.
    """

    id: str | None = None
    source: str | None = None
    title: str | None = None
    start: int = 0

    @classmethod
    def of(cls, id: Any, source: str | None, metadata: Mapping[str, object], start: Any) -> CitedDocument:
        """From what a framework knows of a document; what is of another type counts as unknown."""
        title = metadata.get("title")
        return cls(
            None if id is None else str(id),
            source,
            title if isinstance(title, str) else None,
            start if type(start) is int and start >= 0 else 0,
        )


@dataclass(frozen=True)
class Citable:
    """The documents in the messages of a call, and the sentences of each that stand there.

    Attributes:
        with_text: whether citations are to hold the cited sentences.
    """

    documents: tuple[CitedDocument, ...] = ()
    excerpts: tuple[Excerpt, ...] = ()
    with_text: bool = False

    def add(self, document: CitedDocument, text: str, message: int, move: Callable[[Span], Iterable[Span]]) -> Citable:
        """With the text of a document that stands in a message; ``move`` gives the places there of a span of it."""
        return self.join(Citable((document,), excerpts_of(0, text, message, move)))

    def join(self, other: Citable) -> Citable:
        """With the documents of another one that stand somewhere."""
        if not other.excerpts:
            return self
        new = [replace(e, passage=e.passage + len(self.documents)) for e in other.excerpts]
        return replace(self, documents=(*self.documents, *other.documents), excerpts=(*self.excerpts, *new))

    def placed(self, placement: Placement, message: int = 0) -> Citable:
        """In a text that holds the one in which they stand."""
        places = [(e, placement.place((e.place,))) for e in self.excerpts]
        return replace(self, excerpts=tuple(replace(e, message=message, place=p) for e, own in places for p in own))

    def within(self, start: int, end: int) -> Citable:
        """Those of a piece of the text, counted from its beginning."""
        inside = [e for e in self.excerpts if start <= e.place.start and e.place.end <= end]
        return replace(self, excerpts=tuple(replace(e, place=shift([e.place], -start)[0]) for e in inside))

    def as_data(self) -> dict[str, object]:
        """As plain data, for one message."""
        excerpts = [[e.passage, e.start, e.end, e.place.start, e.place.end] for e in self.excerpts]
        return {"documents": [list(astuple(d)) for d in self.documents], "excerpts": excerpts}

    @classmethod
    def of_data(cls, data: Mapping[str, Any], message: int) -> Citable:
        """What ``as_data`` wrote, in this message."""
        excerpts = (Excerpt(p, start, end, message, Span(*place)) for p, start, end, *place in data["excerpts"])
        return cls(tuple(CitedDocument(*fields) for fields in data["documents"]), tuple(excerpts))


@dataclass(frozen=True)
class Cited:
    """A sentence of an answer, and the document that it rests on.

    Attributes:
        text: the sentence of the document that was looked at most; None if it is not asked for.
    """

    document: CitedDocument
    citation: Citation
    text: str | None = None

    def record(self) -> dict[str, object]:
        """As plain data, without any text: characters of the answer, of the document, and its share."""
        own, document = self.citation, self.document
        return {
            "answer_start": own.answer_start,
            "answer_end": own.answer_end,
            "document_id": document.id,
            "source": document.source,
            "start": document.start + own.start,
            "end": document.start + own.end,
            "share": round(own.share, 4),
        }


def as_cited(found: Sequence[Citation], citable: Citable, texts: Sequence[str]) -> tuple[Cited, ...]:
    """Citations with their documents; ``texts`` are those of the messages."""
    cited = []
    for own in found:
        there = citable.excerpts[own.excerpt]
        text = texts[there.message][there.place.start : there.place.end] if citable.with_text else None
        cited.append(Cited(citable.documents[own.passage], own, text))
    return tuple(cited)
