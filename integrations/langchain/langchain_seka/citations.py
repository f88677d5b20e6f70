"""The documents in a call's messages, and citations of them as LangChain has them: annotations of the answer's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, ToolMessage

from langchain_seka.capture import Evidence, Message
from langchain_seka.highlights import follow_messages, follow_text
from langchain_seka.instructions import Follow
from langchain_seka.messages import artifact_documents, text_of
from langchain_seka.passages import followable, place_in_messages
from seka_rag.frameworks import Citable, Cited, CitedDocument, as_passage, mover, place_passages


def in_conversation(messages: Sequence[BaseMessage], evidence: Evidence | None) -> Citable:
    """The documents that tools returned as artifacts, and those that a retriever found, where they stand in messages."""
    citable = Citable()
    for i, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            documents = [d for d in artifact_documents(message) if as_passage(d).text.strip()]
            places = place_passages([as_passage(d).text for d in documents], text_of(message))
            for k, here in places.items():
                document, text = _document(documents[k]), as_passage(documents[k]).text
                citable = citable.add(document, text, i, mover(here))
    return _retrieved(citable, followable(messages), evidence, follow_messages)


def in_text(prompt: str, evidence: Evidence | None) -> Citable:
    """The documents that a retriever found, where they stand in a prompt."""
    return _retrieved(Citable(), [("text", prompt)], evidence, follow_text)


def _retrieved(
    citable: Citable, targets: Sequence[Message | None], evidence: Evidence | None, follow: Follow
) -> Citable:
    if evidence is None:
        return citable
    standing = place_in_messages(targets, evidence, follow)
    found: dict[int, Citable] = {}  # by passage: one that stands twice is one document
    for i, placement, places in standing.placed:
        there = [k for k in places if standing.passages[k].identity not in evidence.dropped] or list(places)
        for k in there:
            document, text = _document(standing.passages[k].document), standing.passages[k].passage.text
            here = Citable().add(document, text, i, mover(places[k])).placed(placement, i)
            if here.excerpts:
                found[k] = replace(here, excerpts=(found[k].excerpts if k in found else ()) + here.excerpts)
    for own in found.values():
        citable = citable.join(own)
    return citable


def _document(document: Document) -> CitedDocument:
    passage = as_passage(document)
    start = passage.metadata.get("start_index")  # as text splitters write it
    return CitedDocument.of(getattr(document, "id", None), passage.source, passage.metadata, start)


def with_annotations(text: str, cited: Sequence[Cited], *, always: bool = False) -> Any:
    """The content of an answer: its text, as a block if it has citations.

    Args:
        always: as a block in any case.
    """
    found = [_annotation(own) for own in cited]
    block: dict[str, object] = {"type": "text", "text": text, **({"annotations": found} if found else {})}
    return [block] if found or always else text


def _annotation(own: Cited) -> dict[str, object]:
    """A citation as LangChain writes it: characters of the answer, and of the document among ``extras``."""
    record = own.record()
    start, end = record.pop("answer_start"), record.pop("answer_end")
    known: dict[str, object] = {"type": "citation", "start_index": start, "end_index": end}
    if own.document.title is not None:
        known["title"] = own.document.title
    if (own.document.source or "").startswith(("http://", "https://")):
        known["url"] = own.document.source
    if own.text is not None:
        known["cited_text"] = own.text
    return {**known, "extras": {name: value for name, value in record.items() if value is not None}}
