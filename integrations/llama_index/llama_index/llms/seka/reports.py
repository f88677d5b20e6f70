"""What a response carries beside its text: token counts, and what was steered. No text of any document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, MessageRole, TextBlock
from llama_index.llms.seka.citations import citation_blocks
from llama_index.llms.seka.flow import collecting, current_flow
from llama_index.llms.seka.tools import answer_blocks, invalid_calls

from seka_rag import Generation
from seka_rag.frameworks import KEY, Cited, Highlights, report_of, usage


@contextmanager
def collect_reports() -> Iterator[list[dict[str, object]]]:
    """Collect the reports of all calls inside the ``with``, in the order in which they end.

    Those of one query also stand in ``response.metadata["seka"]["reports"]``. It reaches tasks that are
    started inside, and threads that are given a copy of the context, but no others; concurrent requests do not mix.

    >>> with collect_reports() as reports:
    ...     pass  # query_engine.query("Where does Astrid live?")
    >>> reports
    []
    """
    reports: list[dict[str, object]] = []
    outer = collecting.get()
    collecting.set((*outer, reports))
    try:
        yield reports
    finally:
        collecting.set(outer)


def listeners() -> tuple[list[dict[str, object]], ...]:
    """Who gets the report of a call that begins here: those who collect, and the response of a query engine."""
    flow = current_flow()
    everybody = (*collecting.get(), *flow.listeners, *([] if flow.reports is None else [flow.reports]))
    return tuple({id(reports): reports for reports in everybody}.values())


def make_report(
    generation: Generation,
    highlights: Highlights,
    listeners: Iterable[list[dict[str, object]]],
    cited: Sequence[Cited] = (),
) -> dict[str, object]:
    """The report of one call, which goes to those who collect as well."""
    report = report_of(generation, highlights, cited)
    for reports in listeners:
        reports.append(report)
    return report


def response_fields(model: str, generation: Generation, report: dict[str, object]) -> dict[str, object]:
    """``raw`` and ``additional_kwargs`` of a response."""
    counts = usage(generation)
    raw = {"model": model, "finish_reason": generation.finish_reason, "usage": counts}
    invalid = {"invalid_tool_calls": wrong} if (wrong := invalid_calls(generation.invalid_tool_calls)) else {}
    return {"raw": raw, "additional_kwargs": {**counts, KEY: report, **invalid}}


def chat_response(
    answer: str | Generation, delta: str | None, fields: Mapping[str, Any], cited: Sequence[Cited] = ()
) -> ChatResponse:
    """A chat response: of the text so far while it is streamed, of the Generation with its ``response_fields`` at last."""
    # on the message as well: chat engines hand on the message alone
    own = {KEY: fields["additional_kwargs"][KEY]} if fields else {}
    blocks = [TextBlock(text=answer)] if isinstance(answer, str) else [*answer_blocks(answer), *citation_blocks(cited)]
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=own)
    return ChatResponse(message=message, delta=delta, **fields)


def completion_response(
    answer: str | Generation, delta: str | None, fields: Mapping[str, Any], cited: Sequence[Cited] = ()
) -> CompletionResponse:
    """A completion response; as ``chat_response``, but with citations in the report alone, as it has no blocks."""
    text = answer if isinstance(answer, str) else answer.text
    return CompletionResponse(text=text, delta=delta, **fields)
