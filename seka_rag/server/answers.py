"""Answers in the form of OpenAI, with the steering report beside them."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from seka_rag.model.generation import Generation
from seka_rag.text.toolcalls import ToolCall


@dataclass(frozen=True)
class Form:
    """The shape of one answer: whole, or chunk by chunk."""

    model: str
    chat: bool
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: secrets.token_hex(12))

    def head(self, *, chunk: bool) -> dict[str, Any]:
        kind = "chat.completion" + (".chunk" if chunk else "") if self.chat else "text_completion"
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}"
        return {"id": name, "object": kind, "created": self.created, "model": self.model}

    def whole(self, generation: Generation, report: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish(generation), "logprobs": None}
        if self.chat:
            calls = generation.tool_calls
            message: dict[str, Any] = {"role": "assistant", "content": generation.text or (None if calls else "")}
            choice["message"] = {**message, **({"tool_calls": tool_calls_body(calls)} if calls else {})}
        else:
            choice["text"] = generation.text
        return {**self.head(chunk=False), "choices": [choice], "usage": usage(generation), "seka": report}

    def piece(self, text: str, *, role: bool = False) -> dict[str, Any]:
        role_field = {"role": "assistant"} if role else {}
        content = {"delta": {**role_field, "content": text}} if self.chat else {"text": text}
        return self._chunk(content, None)

    def last(self, generation: Generation, report: dict[str, Any], *, with_usage: bool) -> list[dict[str, Any]]:
        """What ends a stream: calls, the reason of the end and the report, and usage if the request wants it."""
        chunks = []
        if generation.tool_calls:
            calls = [{"index": i, **call} for i, call in enumerate(tool_calls_body(generation.tool_calls))]
            chunks.append(self._chunk({"delta": {"tool_calls": calls}}, None))
        end = self._chunk({"delta": {}} if self.chat else {"text": ""}, finish(generation))
        chunks.append(end)
        if with_usage:
            chunks.append({**self.head(chunk=True), "choices": [], "usage": usage(generation)})
        chunks[-1]["seka"] = report
        return chunks

    def _chunk(self, content: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": reason}
        return {**self.head(chunk=True), "choices": [choice]}


def finish(generation: Generation) -> str:
    return "tool_calls" if generation.tool_calls and generation.finish_reason == "stop" else generation.finish_reason


def usage(generation: Generation) -> dict[str, int]:
    used, new = generation.prompt_tokens, generation.completion_tokens
    return {"prompt_tokens": used, "completion_tokens": new, "total_tokens": used + new}


def tool_calls_body(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Calls in the form of OpenAI, their arguments as JSON text."""
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)},
        }
        for call in calls
    ]


def report_of(generation: Generation, highlights: list[dict[str, Any]]) -> dict[str, Any]:
    """What was steered, and calls that the model did not write as it should."""
    report = {**generation.report.as_dict(), "highlights": highlights}
    if generation.invalid_tool_calls:
        report["invalid_tool_calls"] = [asdict(call) for call in generation.invalid_tool_calls]
    return report


def event(data: dict[str, Any]) -> bytes:
    """One event of a stream. ASCII only, so that no line separator of Unicode breaks it."""
    return b"data: " + json.dumps(data).encode() + b"\n\n"
