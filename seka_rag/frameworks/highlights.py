"""The highlights of one call: spans of its messages, what the report says of them, and why there are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from seka_rag.frameworks.citing import Citable, CitationMode
from seka_rag.model.scope import open_highlighting
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span


@dataclass(frozen=True)
class Highlights:
    """Spans with the index of the message that each belongs to, and what the caller should know.

    Attributes:
        spans: (index of the message, span in its text).
        warnings: for the report.
        unmarked: why nothing is marked in retrieved passages that are there; see ``decide``.
        citable: the documents that the answer may cite; None if it is not to cite any.
    """

    spans: tuple[tuple[int, Span], ...] = ()
    warnings: tuple[str, ...] = ()
    unmarked: str | None = None
    citable: Citable | None = None

    @classmethod
    def of_prompts(
        cls, prompts: Iterable[Prompt], warnings: Iterable[str] = (), unmarked: str | None = None
    ) -> Highlights:
        """The spans of prompts, each of which is one message."""
        return cls(tuple((i, span) for i, p in enumerate(prompts) for span in p.spans), tuple(warnings), unmarked)

    def prompts(self, texts: Iterable[str]) -> list[Prompt]:
        """The texts of all messages with their spans."""
        spans: dict[int, list[Span]] = {}
        for i, span in self.spans:
            spans.setdefault(i, []).append(span)
        return [Prompt(text, tuple(spans.get(i, ()))) for i, text in enumerate(texts)]

    def records(self) -> list[dict[str, object]]:
        """The spans as plain data, without any text."""
        return [
            {"message": i, "start": s.start, "end": s.end, "weight": s.weight, "source": s.source}
            for i, s in self.spans
        ]

    def in_open_block(self, texts: Mapping[int, str]) -> Highlights:
        """With those of the open ``with seka_rag.highlighting(...)``, if there is one and there are none of its own.

        Args:
            texts: what the user and the system say, by the index of the message.
        """
        scope = open_highlighting()
        if scope is None or self.spans:
            return self
        found = zip(texts, scope.find(list(texts.values())), strict=True)
        return replace(self, spans=tuple((i, span) for i, spans in found for span in spans))

    def citing(self, citable: Citable | None, citations: CitationMode) -> Highlights:
        """With the documents that stand in the call, for an answer that is to cite them; without any for one that is not."""
        cited = replace(citable or Citable(), with_text=citations == "text") if citations else None
        return replace(self, citable=cited)


def highlights_off() -> Highlights:
    """Of a call with ``highlight="off"`` or without steering."""
    if open_highlighting() is None:
        return Highlights()
    return Highlights(warnings=("the open highlighting(...) marks nothing here: highlight is 'off' or steering None",))


def unique(warnings: Sequence[str]) -> tuple[str, ...]:
    """Each warning once, in order."""
    return tuple(dict.fromkeys(warnings))
