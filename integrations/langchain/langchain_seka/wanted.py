"""What one call wants highlighted: its own options first, then an explicit handler's, then the model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import ToolMessage

from seka_rag import Highlighter, SekaError, as_highlighter

Kind = Literal["context", "instructions"]
HighlightMode = Literal["auto", "off"] | Sequence[Kind]


def kinds(mode: Any) -> frozenset[str]:
    """The kinds of text that a mode names.

    Raises:
        SekaError: anything else.
    """
    if mode in ("auto", "off"):
        return frozenset(("context",) if mode == "auto" else ())
    named = frozenset((mode,) if isinstance(mode, str) else mode if isinstance(mode, Sequence) else (None,))
    if not named <= {"context", "instructions"}:
        raise SekaError(f"highlight={mode!r}: use 'auto', 'off', or a list of 'context' and 'instructions'")
    return named


@dataclass(frozen=True)
class Wanted:
    """What to highlight, and who chooses in the passages.

    Attributes:
        tools: whose output may be highlighted: the names of tools, or True for all.
    """

    kinds: frozenset[str]
    highlighter: Highlighter
    tools: bool | tuple[str, ...] = False

    @classmethod
    def of(cls, *sources: Mapping[str, Any]) -> Wanted:
        """From the first of these that says anything about each."""

        def first(name: str) -> Any:
            return next((source[name] for source in sources if source.get(name) is not None), None)

        tools = first("highlight_tools")
        tools = (
            tools
            if isinstance(tools, bool)
            else ()
            if tools is None
            else (tools,)
            if isinstance(tools, str)
            else tuple(tools)
        )
        return cls(kinds(first("highlight")), as_highlighter(first("highlighter")), tools)

    def trusts(self, message: ToolMessage) -> bool:
        return self.tools if isinstance(self.tools, bool) else message.name in self.tools
