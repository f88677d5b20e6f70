"""Answers in the form of OpenAI, with the steering report beside them: whole, or as the events of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from seka_rag.model.generation import Generation
from seka_rag.server.errors import error_body
from seka_rag.server.scores import Scores
from seka_rag.text.toolcalls import ToolCall


class AnswerFormat(Protocol):
    """How the answer to one request is written."""

    id: str

    def whole(
        self, answers: Sequence[Generation], report: dict[str, object], scores: Scores | None
    ) -> dict[str, object]:
        """Everything at once."""

    def begin(self) -> Iterator[bytes]:
        """The first events of a stream."""

    def piece(self, text: str, scores: Scores | None) -> Iterator[bytes]:
        """New text of a single answer."""

    def end(
        self, answers: Sequence[Generation], report: dict[str, object], scores: Scores | None, *, streamed: bool
    ) -> Iterator[bytes]:
        """The last events; they hold the texts unless these were streamed."""

    def failed(self, error: Exception) -> Iterator[bytes]:
        """What ends a stream whose status was sent already."""


@dataclass
class Completions:
    """The form of ``/v1/chat/completions`` and ``/v1/completions``."""

    model: str
    chat: bool
    count: int = 1
    with_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = ""

    def __post_init__(self) -> None:
        self.id = self.id or f"{'chatcmpl' if self.chat else 'cmpl'}-{secrets.token_hex(12)}"

    def whole(
        self, answers: Sequence[Generation], report: dict[str, object], scores: Scores | None
    ) -> dict[str, object]:
        choices = [self._choice(i, answer, scores) for i, answer in enumerate(answers)]
        return {**self._head(chunk=False), "choices": choices, "usage": usage(answers), "seka": report}

    def _choice(self, index: int, answer: Generation, scores: Scores | None) -> dict[str, object]:
        logprobs = scores and scores.written(index, chat=self.chat, length=answer.completion_tokens)
        choice: dict[str, object] = {"index": index, "finish_reason": finish(answer), "logprobs": logprobs}
        thoughts = _thoughts(answer)
        if not self.chat:
            return {**choice, "text": answer.text, **thoughts}
        calls = {"tool_calls": tool_calls_body(answer.tool_calls)} if answer.tool_calls else {}
        content = answer.text or (None if calls else "")
        return {**choice, "message": {"role": "assistant", "content": content, "refusal": None, **thoughts, **calls}}

    def begin(self) -> Iterator[bytes]:
        for index in range(self.count):
            delta = {"delta": {"role": "assistant", "content": ""}} if self.chat else {"text": ""}
            yield self._event(index, delta)

    def piece(self, text: str, scores: Scores | None) -> Iterator[bytes]:
        yield self._piece(0, text, scores and scores.next(chat=self.chat))

    def _piece(self, index: int, text: str, logprobs: object) -> bytes:
        return self._event(index, {"delta": {"content": text}} if self.chat else {"text": text}, logprobs)

    def end(
        self, answers: Sequence[Generation], report: dict[str, object], scores: Scores | None, *, streamed: bool
    ) -> Iterator[bytes]:
        for index, answer in enumerate(answers):
            if not streamed:
                logprobs = scores and scores.written(index, chat=self.chat, length=answer.completion_tokens)
                yield self._piece(index, answer.text, logprobs)
            if thoughts := _thoughts(answer):
                yield self._event(index, {"delta": thoughts} if self.chat else {"text": "", **thoughts})
            if answer.tool_calls:
                calls = [{"index": i, **call} for i, call in enumerate(tool_calls_body(answer.tool_calls))]
                yield self._event(index, {"delta": {"tool_calls": calls}})
            rest = scores and streamed and scores.next(chat=self.chat, length=answer.completion_tokens)
            last: dict[str, object] = {"delta": {}} if self.chat else {"text": ""}
            extra = {"seka": report} if index == len(answers) - 1 and not self.with_usage else {}
            yield self._event(index, last, rest or None, finish(answer), extra)
        if self.with_usage:
            yield event({**self._head(chunk=True), "choices": [], "usage": usage(answers), "seka": report})
        yield b"data: [DONE]\n\n"

    def failed(self, error: Exception) -> Iterator[bytes]:
        yield event(error_body(error))

    def _head(self, *, chunk: bool) -> dict[str, object]:
        kind = "chat.completion" + (".chunk" if chunk else "") if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _event(
        self,
        index: int,
        content: Mapping[str, object],
        logprobs: object = None,
        reason: str | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> bytes:
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}
        return event({**self._head(chunk=True), "choices": [choice], **(extra or {})})


def finish(answer: Generation) -> str:
    return "tool_calls" if answer.tool_calls and answer.finish_reason == "stop" else answer.finish_reason


def _thoughts(answer: Generation) -> dict[str, str]:
    """What the model thought before it answered, under the name that clients know."""
    return {} if answer.thoughts is None else {"reasoning_content": answer.thoughts}


def usage(answers: Sequence[Generation]) -> dict[str, int]:
    used, new = answers[0].prompt_tokens, sum(answer.completion_tokens for answer in answers)
    return {"prompt_tokens": used, "completion_tokens": new, "total_tokens": used + new}


def tool_calls_body(calls: Sequence[ToolCall]) -> list[dict[str, object]]:
    """Calls in the form of OpenAI, their arguments as JSON text."""
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)},
        }
        for call in calls
    ]


def report_of(answers: Sequence[Generation], highlights: list[dict[str, object]]) -> dict[str, object]:
    """What was steered, and calls that the model did not write as it should."""
    report = {**answers[0].report.as_dict(), "highlights": highlights}
    if len(answers) > 1:  # OpenAI's usage is the sum
        report["completion_tokens"] = [answer.completion_tokens for answer in answers]
    invalid = [asdict(call) for answer in answers for call in answer.invalid_tool_calls]
    return {**report, "invalid_tool_calls": invalid} if invalid else report


def event(data: Mapping[str, object], name: str | None = None) -> bytes:
    """One event of a stream. ASCII only, so that no line separator of Unicode breaks it."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + json.dumps(data).encode() + b"\n\n"
