"""What an answer carries beside its text: token counts, and what was steered. No text of any document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seka_rag.frameworks.citing import Cited
from seka_rag.frameworks.highlights import Highlights
from seka_rag.model.generation import Generation


def usage(
    generation: Generation, prompt: str = "prompt_tokens", completion: str = "completion_tokens"
) -> dict[str, int]:
    """Token counts, under the names that a framework has for them."""
    given, new = generation.prompt_tokens, generation.completion_tokens
    return {prompt: given, completion: new, "total_tokens": given + new}


def report_of(generation: Generation, highlights: Highlights, cited: Sequence[Cited] = ()) -> dict[str, Any]:
    """The steering report as plain data, with the highlights, citations if they are asked for, and all warnings."""
    report = generation.report.as_dict()
    unread = (f"the model wrote a tool call that cannot be read: {c.error}" for c in generation.invalid_tool_calls)
    report["warnings"] = [*generation.report.warnings, *highlights.warnings, *unread]
    report["highlights"] = highlights.records()
    if highlights.citable is not None:
        report["citations"] = [own.record() for own in cited]
    return report
