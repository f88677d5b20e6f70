"""The smallest integration, whole: what an integration takes from ``seka_rag.frameworks``, and what it owes its users.

Its framework is three calls that answer a question from documents. A real one has templates and retrievers of its own, whose
structure says where the documents stand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, ClassVar

import pytest

from seka_rag import Prompt, RemoteModel, SekaError, Span, highlighting
from seka_rag.frameworks import (
    NOTHING_CHOSEN,
    Highlights,
    ModelSettings,
    Request,
    as_passage,
    choose_spans,
    highlights_off,
    locate_values,
    report_of,
)

TEMPLATE = "Context:\n{context}\n\nQuestion: {question}\nAnswer:"


def no_one(question, passages):
    return [() for _ in passages]


class PlainModel(ModelSettings):
    """A model for three calls; pieces are texts, and the last one is the report."""

    remote_model: ClassVar[Any] = RemoteModel

    def answer(self, question: str, documents: Sequence[Any], **call: Any) -> tuple[str, dict[str, Any]]:
        request = self._request(question, documents, call)
        generation = request.run()
        return generation.text, report_of(generation, request.highlights)

    async def aanswer(self, question: str, documents: Sequence[Any], **call: Any) -> tuple[str, dict[str, Any]]:
        request = await asyncio.to_thread(self._request, question, documents, call)  # it may load the model
        generation = await request.arun()
        return generation.text, report_of(generation, request.highlights)

    def stream(self, question: str, documents: Sequence[Any], **call: Any) -> Iterator[str | dict[str, Any]]:
        request = self._request(question, documents, call)
        with request.stream() as pieces:
            yield from pieces
        yield report_of(pieces.result, request.highlights)

    async def astream(
        self, question: str, documents: Sequence[Any], **call: Any
    ) -> AsyncIterator[str | dict[str, Any]]:
        request = await asyncio.to_thread(self._request, question, documents, call)
        stream = await asyncio.to_thread(request.stream)
        async with aclosing(aiter(stream)) as pieces:
            async for piece in pieces:
                yield piece
        yield report_of(stream.result, request.highlights)

    def _request(self, question: str, documents: Sequence[Any], call: dict[str, Any]) -> Request:
        settings = self.highlight_settings(call)
        passages = [as_passage(document) for document in documents]
        steers = settings.has("context")
        chosen = choose_spans(settings.highlighter if steers else no_one, question, passages)
        context = Prompt.join([Prompt(p.text, own) for p, own in zip(passages, chosen.spans, strict=True)], "\n")
        values = {"context": context.text, "question": question}
        text, places = locate_values(lambda filled: TEMPLATE.format(**filled), values)
        highlights = highlights_off()
        if steers:
            spans = tuple((0, span) for p in places if p.name == "context" for span in p.place(context.spans))
            found = Highlights(spans, chosen.warnings, NOTHING_CHOSEN if passages else None)
            highlights = settings.settle(found.in_open_block({0: text}))
        (prompt,) = highlights.prompts([text])
        messages = [{"role": "user", "content": prompt}]
        return Request(self.engine, messages, self.call_options(call), highlights)


QUESTION = "Where does Alec live?"
DOCUMENTS = ["Maud works as a tailor.", "Alec moved to Lyon last year."]


@pytest.fixture(scope="module")
def model(steered):
    return PlainModel(steered_model=steered, max_tokens=6)


def marked(report):
    return [(mark["start"], mark["end"]) for mark in report["highlights"]]


def test_the_answer_carries_its_report(model):
    text, report = model.answer(QUESTION, DOCUMENTS)
    start = len("Context:\n") + len(DOCUMENTS[0]) + 1
    assert marked(report) == [(start, start + len(DOCUMENTS[1]))]
    assert report["tokens_edited"] == report["tokens_marked"] > 0
    plain, off = model.answer(QUESTION, DOCUMENTS, highlight="off")
    assert (marked(off), off["tokens_marked"]) == ([], 0)
    assert model.answer(QUESTION, DOCUMENTS, steering=None)[0] == plain
    assert text == model.answer(QUESTION, DOCUMENTS)[0]


async def test_streamed_and_asynchronous(model):
    text, report = model.answer(QUESTION, DOCUMENTS)
    *pieces, last = model.stream(QUESTION, DOCUMENTS)
    assert ("".join(pieces), last) == (text, report)
    assert await model.aanswer(QUESTION, DOCUMENTS) == (text, report)
    *pieces, last = [piece async for piece in model.astream(QUESTION, DOCUMENTS)]
    assert ("".join(pieces), last) == (text, report)


def test_a_document_that_copies_another_moves_nothing(model):
    """Each sentence is marked where its document stands, also where the question or a document repeats it."""
    evidence = DOCUMENTS[1]

    def choose(question, passages):
        return [(Span(0, len(p.text)),) if p.text == evidence else () for p in passages]

    copies = ["{context} " + evidence + " So it is said.", evidence]
    _, report = model.answer(f"{evidence} Where is Alec?", copies, highlighter=choose)
    start = len("Context:\n") + len(copies[0]) + 1
    assert marked(report) == [(start, start + len(evidence))]


def test_nothing_marked_is_said(model):
    with pytest.raises(SekaError, match="the highlighter chose nothing"):
        model.answer(QUESTION, DOCUMENTS, highlighter=no_one, on_unmarked="raise")
    with pytest.warns(UserWarning, match="chose nothing"):
        _, report = model.answer(QUESTION, DOCUMENTS, highlighter=no_one)
    assert NOTHING_CHOSEN in report["warnings"]


def test_an_open_block_marks_what_the_call_does_not(model):
    with highlighting(DOCUMENTS[1:]):
        _, report = model.answer(f"{DOCUMENTS[1]} Where does he live?", [])
    start = len("Context:\n\n\nQuestion: ")
    assert marked(report) == [(start, start + len(DOCUMENTS[1]))]
    assert report["tokens_edited"] > 0


def test_requests_at_the_same_time_do_not_mix(model):
    some = [DOCUMENTS, DOCUMENTS[::-1], DOCUMENTS[1:], [*DOCUMENTS, "Ada keeps a rabbit."]] * 2
    alone = [model.answer(QUESTION, documents) for documents in some]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda documents: model.answer(QUESTION, documents), some)) == alone
