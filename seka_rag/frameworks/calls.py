"""One call of a model, ready to run: the prompt with its highlights, and options of ``SteeredModel.generate``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seka_rag.errors import SettingError
from seka_rag.frameworks.citing import Cited, as_cited
from seka_rag.frameworks.engines import Engine, citer_of
from seka_rag.frameworks.highlights import Highlights
from seka_rag.model.generation import Generation
from seka_rag.model.scope import no_highlighting
from seka_rag.model.stream import TextStream
from seka_rag.text.prompt import Prompt


@dataclass(frozen=True)
class Request:
    """A prompt to continue, or messages to answer. What an open ``highlighting`` block marks is marked in it already."""

    engine: Engine
    prompt: Prompt | Sequence[Mapping[str, object]]
    options: Mapping[str, Any]
    highlights: Highlights

    def __post_init__(self) -> None:
        if isinstance(self.prompt, Prompt):  # no chat template is applied to it
            options = {name: value for name, value in self.options.items() if name != "template"}
            object.__setattr__(self, "options", options)
        if self.highlights.citable is not None and citer_of(self.engine) is None:
            raise SettingError(
                f"citations are read from a model's attention, and the server of {self.engine.name!r} does not let it be "
                "seen: leave citations out, or use seka-rag serve"
            )

    def run(self) -> Generation:
        ask = self.engine.generate if isinstance(self.prompt, Prompt) else self.engine.chat
        with no_highlighting():
            return ask(self.prompt, **self.options)

    async def arun(self) -> Generation:
        """``run`` without blocking the event loop."""
        ask = self.engine.agenerate if isinstance(self.prompt, Prompt) else self.engine.achat
        with no_highlighting():
            return await ask(self.prompt, **self.options)

    def stream(self) -> TextStream[Generation]:
        """The answer in pieces."""
        ask = self.engine.stream if isinstance(self.prompt, Prompt) else self.engine.stream_chat
        with no_highlighting():
            return ask(self.prompt, **self.options)

    def cite(self, generation: Generation) -> tuple[Cited, ...]:
        """The documents that the answer rests on, if that is asked for; a pass of the model."""
        citable = self.highlights.citable
        if citable is None:
            return ()
        tools = None if self.options.get("tool_choice") == "none" else self.options.get("tools")
        template = {**self.options.get("template", {}), **({"tools": tools} if tools else {})}
        ask = citer_of(self.engine)
        assert ask is not None  # looked at when the request was made
        found = ask(self.prompt, generation.text, citable.excerpts, template=template)
        messages = [{"content": self.prompt}] if isinstance(self.prompt, Prompt) else self.prompt
        return as_cited(found, citable, [str(message.get("content") or "") for message in messages])

    async def acite(self, generation: Generation) -> tuple[Cited, ...]:
        """``cite`` without blocking the event loop."""
        return () if self.highlights.citable is None else await asyncio.to_thread(self.cite, generation)
