"""Prompts in a terminal."""

from __future__ import annotations

from rich.text import Text

from seka_rag.text.prompt import Prompt


def highlighted(prompt: Prompt) -> Text:
    """A prompt as terminal text, its highlights in colour."""
    text = Text(prompt.text)
    for span in prompt.spans:
        text.stylize("black on yellow" if span.weight >= 0.75 else "black on light_goldenrod2", span.start, span.end)
    return text
