"""One call of a model, ready to run: the prompt with its highlights, and options of ``SteeredModel.generate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seka_rag.frameworks.engines import Engine
from seka_rag.frameworks.highlights import Highlights
from seka_rag.model.generation import Generation
from seka_rag.model.scope import no_highlighting
from seka_rag.model.stream import TextStream
from seka_rag.text.prompt import Prompt


@dataclass(frozen=True)
class Request:
    """A prompt to continue, or messages to answer. What an open ``highlighting`` block marks is marked in it already."""

    engine: Engine
    prompt: Prompt | Sequence[Mapping[str, Any]]
    options: Mapping[str, Any]
    highlights: Highlights

    def __post_init__(self) -> None:
        if isinstance(self.prompt, Prompt):  # no chat template is applied to it
            options = {name: value for name, value in self.options.items() if name != "template"}
            object.__setattr__(self, "options", options)

    def run(self) -> Generation:
        ask = self.engine.generate if isinstance(self.prompt, Prompt) else self.engine.chat
        with no_highlighting():
            return ask(self.prompt, **self.options)  # type: ignore[no-any-return]

    async def arun(self) -> Generation:
        """``run`` without blocking the event loop."""
        ask = self.engine.agenerate if isinstance(self.prompt, Prompt) else self.engine.achat
        with no_highlighting():
            return await ask(self.prompt, **self.options)  # type: ignore[no-any-return]

    def stream(self) -> TextStream[Generation]:
        """The answer in pieces."""
        ask = self.engine.stream if isinstance(self.prompt, Prompt) else self.engine.stream_chat
        with no_highlighting():
            return ask(self.prompt, **self.options)
