"""What retrievers returned, document by document, and what the steps of a chain left out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from langchain_core.documents import Document

from seka_rag import Passage
from seka_rag.frameworks import Squeezed, as_passage

#: What tells one document from another: equal texts of other sources, or with other metadata, are others.
Identity = tuple[str, str | None, str]


@dataclass(frozen=True)
class Found:
    """A retrieved passage, and the query that found it.

    Attributes:
        text: its text, ready to be placed.
        document: as the retriever returned it.
    """

    query: str
    passage: Passage
    text: Squeezed
    identity: Identity
    document: Document


@dataclass(frozen=True)
class Retrieval:
    """What one retriever was asked and what it returned."""

    query: str
    documents: tuple[Document, ...]

    @cached_property
    def found(self) -> tuple[Found, ...]:
        """The documents that are not blank. Made once for all calls of a chain."""
        passages = ((as_passage(document), document) for document in self.documents)
        return tuple(Found(self.query, p, Squeezed(p.text), _identity(p), own) for p, own in passages if p.text.strip())


def _identity(passage: Passage) -> Identity:
    known = {str(key): value for key, value in passage.metadata.items() if "score" not in str(key)}
    return passage.text, passage.source, repr(sorted(known.items(), key=lambda item: item[0]))


def documents_in(value: object) -> tuple[Document, ...]:
    """The documents in what a step is given or returns: a list of them, or a state with such lists."""
    if isinstance(value, Mapping):
        return tuple(
            document for own in value.values() if isinstance(own, list | tuple) for document in documents_in(own)
        )
    if isinstance(value, list | tuple) and all(hasattr(item, "page_content") for item in value):
        return tuple(value)
    return ()


def dropped_by(given: tuple[Document, ...], returned: tuple[Document, ...]) -> set[Identity]:
    """What a step left out that returns nothing but documents that it was given; of any other it is not known."""
    if not given or not returned:
        return set()
    before, after = ({_identity(as_passage(document)) for document in own} for own in (given, returned))
    return before - after if after <= before else set()
