"""Answers: from the tokens of one row to text, calls and counts."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from seka_rag.hf.forms import AnswerForm
from seka_rag.hf.output import cut_at_stop
from seka_rag.steering.base import SteeringReport
from seka_rag.text.toolcalls import InvalidToolCall, ToolCall


@dataclass(frozen=True)
class Generation:
    """An answer and how it came about.

    Attributes:
        text: the new text without thoughts; where tools were given, what the model says beside its calls.
        report: what was steered in its prompt.
        prompt_tokens, completion_tokens: counts, without padding.
        finish_reason: "stop" (end token or stop string) or "length".
        tool_calls: the tools that the model asks for.
        invalid_tool_calls: calls that it did not write as it should.
        thoughts: what it wrote between ``<think>`` and ``</think>`` before the answer, if it has these tokens.
    """

    text: str
    report: SteeringReport = field(repr=False)
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()
    thoughts: str | None = None


def finished(
    ids: list[int],
    form: AnswerForm,
    *,
    stop: Sequence[str],
    ends: AbstractSet[int],
    prompt_tokens: int,
    report: SteeringReport,
) -> Generation:
    """The answer that these new tokens are; what follows an end token is padding."""
    end = next((i for i, t in enumerate(ids) if t in ends), None)
    kept = ids if end is None else ids[:end]
    text, stopped = cut_at_stop(form.decode(kept), stop)
    reason: Literal["stop", "length"] = "stop" if stopped or end is not None else "length"
    read = form.read(text)
    return Generation(read.content, report, prompt_tokens, len(kept), reason, read.calls, read.invalid, read.thoughts)
