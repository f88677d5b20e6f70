"""What one call is to highlight: which kinds of text, chosen by what, in the output of which tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, PlainSerializer

from seka_rag.errors import SettingError, SteeringError
from seka_rag.frameworks.citing import CitationMode, as_citation_mode
from seka_rag.frameworks.highlights import Highlights
from seka_rag.frameworks.unmarked import OnUnmarked, as_on_unmarked, decide
from seka_rag.highlight.base import Highlighter
from seka_rag.highlight.registry import as_highlighter

Kind = Literal["context", "instructions", "question"]
HighlightMode = Literal["auto", "off"] | Sequence[Kind]
_KINDS = ("context", "instructions", "question")
#: Fields, and options of a call, that say what to highlight and whether to cite.
HIGHLIGHT_OPTIONS = ("highlight", "highlighter", "highlight_tools", "on_unmarked", "citations")


def kinds(mode: object) -> frozenset[str] | None:
    """The kinds of text that a mode names; None for "off".

    Raises:
        SettingError: anything else.
    """
    if mode in ("auto", "off"):
        return frozenset({"context"}) if mode == "auto" else None
    named = mode if isinstance(mode, Sequence | frozenset | set) and not isinstance(mode, str) else (None,)
    if not all(kind in _KINDS for kind in named):
        raise SettingError(f"highlight={mode!r}: use 'auto', 'off', or a list of {', '.join(map(repr, _KINDS))}")
    return frozenset(named)


def chooser(value: Any) -> Highlighter:
    """What chooses in passages, from a field: a highlighter, its name, or a framework's object that holds one.

    Raises:
        SpanError: none of these.
        SettingError: "off", which is a value of ``highlight``.
    """
    if value == "off":
        raise SettingError("highlighter='off': use highlight='off', or a list of kinds without 'context'")
    return as_highlighter(getattr(value, "highlighter", value) if hasattr(value, "chosen_in") else value)


def _checked(value: object) -> Any:
    chooser(value)
    return value


def _written(value: object) -> str:
    # the name of a callable is not a known highlighter: reading it back fails, rather than taking another one
    return value if isinstance(value, str) else repr(value)


#: A field of pydantic that holds what ``chooser`` reads.
HighlighterField = Annotated[Any, AfterValidator(_checked), PlainSerializer(_written)]


@dataclass(frozen=True)
class HighlightSettings:
    """What one call is to highlight.

    Attributes:
        kinds: what is found without code of the user; None: nothing is highlighted, marks on messages included.
        highlighter: chooses in passages.
        tools: whose output may be highlighted: the names of tools, or True for all.
        on_unmarked: see ``decide``.
        citations: whether the answer is to name the documents that it rests on, and with their text.
        bank: whether there is one to steer with; without it highlights are an error.
    """

    kinds: frozenset[str] | None
    highlighter: Highlighter
    tools: bool | tuple[str, ...] = False
    on_unmarked: OnUnmarked = "warn"
    citations: CitationMode = False
    bank: bool = True

    @classmethod
    def of(cls, *sources: Mapping[str, object]) -> HighlightSettings:
        """From the first of these that says anything about each.

        Raises:
            SettingError, SpanError: a setting that means nothing.
        """

        def first(name: str, default: Any) -> Any:
            return next((source[name] for source in sources if source.get(name) is not None), default)

        tools = first("highlight_tools", False)
        return cls(
            kinds(first("highlight", "auto")),
            chooser(first("highlighter", "sentences")),
            tools if isinstance(tools, bool) else (tools,) if isinstance(tools, str) else tuple(tools),
            as_on_unmarked(first("on_unmarked", "warn")),
            as_citation_mode(first("citations", False)),
        )

    def has(self, kind: Kind) -> bool:
        return self.kinds is not None and kind in self.kinds

    def trusts(self, tool: str | None) -> bool:
        """Whether what this tool returned may be highlighted."""
        return self.tools if isinstance(self.tools, bool) else tool in self.tools

    def settle(self, highlights: Highlights) -> Highlights:
        """The highlights of a call as ``decide`` leaves them.

        Raises:
            SteeringError: passages are there and nothing is marked, with ``on_unmarked="raise"``; or highlights and no bank.
        """
        if highlights.spans and not self.bank:
            raise SteeringError(
                "the prompt has highlights, and bank=None leaves the model without a bank: give it one, or steering=None "
                "for a plain answer"
            )
        return decide(highlights, self.on_unmarked)
