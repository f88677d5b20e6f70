"""Where a prompt template put its variables in the messages it made, proven by rendering it again.

The template is rebuilt from what LangChain wrote down of it. One that cannot be rebuilt (a class of your own, few-shot
examples, partial variables that are functions) is not followed: its passages stay unmarked rather than searched for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.documents import Document
from langchain_core.load.load import Reviver
from langchain_core.messages import BaseMessage
from langchain_core.prompts import BasePromptTemplate
from langchain_core.prompts.message import BaseMessagePromptTemplate

from langchain_seka.capture import FilledPrompt
from langchain_seka.messages import text_of
from seka_rag import SekaError
from seka_rag.frameworks import Placement, locate_values

_BETWEEN = "\x1e\n"


@dataclass(frozen=True)
class RenderedMessage:
    """One message of a prompt: its type, its text, and where each variable stands in it."""

    type: str
    text: str
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class Filled:
    """A rebuilt template with what it was filled with; ``values`` are the variables that are text."""

    template: BasePromptTemplate
    inputs: Mapping[str, object]
    values: Mapping[str, str]

    def messages(self, names: Sequence[str]) -> list[RenderedMessage] | None:
        """The messages, with the places of the named variables; None if the template changes a value."""
        shape: list[BaseMessage] = []

        def render(values: Mapping[str, str]) -> str:
            made = self.template.format_prompt(**{**self.inputs, **values}).to_messages()
            shape[:] = shape or made
            return _BETWEEN.join(text_of(m) for m in made)

        try:
            _, placements = locate_values(render, {name: self.values[name] for name in names})
        except SekaError:
            return None
        rendered, start = [], 0
        for message in shape:
            text = text_of(message)
            end = start + len(text)
            here = [
                Placement(p.name, p.start - start, p.end - start, p.offset)
                for p in placements
                if p.start >= start and p.end <= end
            ]
            rendered.append(RenderedMessage(message.type, text, tuple(here)))
            start = end + len(_BETWEEN)
        return rendered

    def text(self, names: Sequence[str]) -> RenderedMessage | None:
        """The prompt as one text, for completion models."""

        def render(values: Mapping[str, str]) -> str:
            return self.template.format_prompt(**{**self.inputs, **values}).to_string()

        try:
            text, placements = locate_values(render, {name: self.values[name] for name in names})
        except SekaError:
            return None
        return RenderedMessage("text", text, placements)


def rebuild(prompt: FilledPrompt) -> Filled | None:
    """The template of a prompt run, or None if it cannot be rebuilt."""
    # written down by this process a moment ago, so jinja2 templates may be read back as well
    reviver = Reviver(allowed_objects="core", ignore_unserializable_fields=True, init_validator=None)
    try:
        template = json.loads(json.dumps(prompt.template), object_hook=reviver)
    except Exception:  # whatever a constructor raises for a class that is not LangChain's own
        return None
    if not isinstance(template, BasePromptTemplate):
        return None
    names = template.input_variables
    inputs = prompt.inputs
    if not isinstance(inputs, Mapping):
        if len(names) != 1:
            return None
        inputs = {names[0]: inputs}
    values = {name: _as_text(inputs[name]) for name in names if name in inputs}
    return Filled(template, inputs, {name: text for name, text in values.items() if text is not None})


def settled(template: Any) -> Any:
    """A template, or parts of one, whose functions among partial variables have been asked: each rendering is the same."""
    if isinstance(template, list):
        return [settled(part) for part in template]
    if not isinstance(template, BasePromptTemplate | BaseMessagePromptTemplate):
        return template
    fields = {name: settled(getattr(template, name)) for name in type(template).model_fields}
    if partial := fields.get("partial_variables"):
        fields["partial_variables"] = {name: own() if callable(own) else own for name, own in partial.items()}
    return template.model_copy(update=fields)


def _as_text(value: object) -> str | None:
    """A variable's text. A list of documents that nobody formatted is written as Python shows it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, Document) for item in value):
        return str(value)
    return None
