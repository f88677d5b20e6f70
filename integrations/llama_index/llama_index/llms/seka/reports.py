"""What a response carries beside its text: token counts, and what was steered. No text of any document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, MessageRole, TextBlock
from llama_index.llms.seka.tools import answer_blocks, invalid_calls

from seka_rag import Generation
from seka_rag.frameworks import KEY, Highlights, report_of, usage

_collecting: ContextVar[tuple[list[dict[str, Any]], ...]] = ContextVar("seka_collected_reports", default=())


@contextmanager
def collect_reports() -> Iterator[list[dict[str, Any]]]:
    """Collect the reports of all calls inside the ``with``, in the order in which they end.

    A query engine's response keeps only text and nodes; this brings the reports through. It reaches tasks that are
    started inside, and threads that are given a copy of the context, but no others; concurrent requests do not mix.

    >>> with collect_reports() as reports:
    ...     pass  # query_engine.query("Where does Astrid live?")
    >>> reports
    []
    """
    reports: list[dict[str, Any]] = []
    outer = _collecting.get()
    _collecting.set((*outer, reports))
    try:
        yield reports
    finally:
        _collecting.set(outer)


def make_report(generation: Generation, highlights: Highlights) -> dict[str, Any]:
    """The report of one call, which goes to those who collect as well."""
    report = report_of(generation, highlights)
    for reports in _collecting.get():
        reports.append(report)
    return report


def response_fields(model: str, generation: Generation, report: dict[str, Any]) -> dict[str, Any]:
    """``raw`` and ``additional_kwargs`` of a response."""
    counts = usage(generation)
    raw = {"model": model, "finish_reason": generation.finish_reason, "usage": counts}
    invalid = {"invalid_tool_calls": wrong} if (wrong := invalid_calls(generation.invalid_tool_calls)) else {}
    return {"raw": raw, "additional_kwargs": {**counts, KEY: report, **invalid}}


def chat_response(answer: str | Generation, delta: str | None, fields: Mapping[str, Any]) -> ChatResponse:
    """A chat response: of the text so far while it is streamed, of the Generation with its ``response_fields`` at last."""
    # on the message as well: chat engines hand on the message alone
    own = {KEY: fields["additional_kwargs"][KEY]} if fields else {}
    blocks = [TextBlock(text=answer)] if isinstance(answer, str) else answer_blocks(answer)
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=own)
    return ChatResponse(message=message, delta=delta, **fields)


def completion_response(answer: str | Generation, delta: str | None, fields: Mapping[str, Any]) -> CompletionResponse:
    """A completion response; as ``chat_response``."""
    text = answer if isinstance(answer, str) else answer.text
    return CompletionResponse(text=text, delta=delta, **fields)
