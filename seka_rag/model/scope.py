"""``with highlighting(documents)``: highlights for the prompts of a plain script, where nobody keeps offsets."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

from seka_rag.errors import SteeringError
from seka_rag.hf.chat import Message
from seka_rag.highlight.base import Highlighter
from seka_rag.highlight.registry import as_highlighter
from seka_rag.highlight.trust import choose_spans
from seka_rag.retrieval.retrievers import as_passage, is_item
from seka_rag.text.passages import Passage
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span, shift


@dataclass
class Highlighting:
    """What became of the documents of one ``with highlighting(...)``.

    Attributes:
        prompts: how many prompts without highlights of their own were given to a model inside.
        marked: how many of them hold a document.
        ambiguous: documents that stood in a prompt more often than they were given, and so were left unmarked there.
    """

    passages: tuple[tuple[Passage, tuple[Span, ...]], ...]
    distrusted: frozenset[int] = frozenset()
    prompts: int = 0
    marked: int = 0
    ambiguous: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def find(self, texts: Sequence[str]) -> list[tuple[Span, ...]]:
        """Spans in each text of one prompt, for the documents that stand no more often than given; counts the prompt.

        An integration that reports highlights itself asks this before it gives the model a prompt, and tokenizes inside
        ``with no_highlighting()``, so that the prompt is not looked at again.
        """
        spans: list[tuple[Span, ...]] = [() for _ in texts]
        ambiguous = 0
        for piece, equal in self._by_text.items():
            places = [(i, at) for i, text in enumerate(texts) for at in islice(_places(text, piece), len(equal) + 1)]
            if len(places) > len(equal):
                ambiguous += len(equal)
            elif len(places) == len(equal):  # each has its own, in their order
                for (i, at), n in zip(places, equal, strict=True):
                    spans[i] += shift(self.passages[n][1], at)
            elif self.distrusted.isdisjoint(equal):  # fewer: nothing tells which of them were left out
                for i, at in places:
                    spans[i] += tuple(dict.fromkeys(span for n in equal for span in shift(self.passages[n][1], at)))
        with self._counting:
            self.prompts += 1
            self.marked += any(spans)
            self.ambiguous += ambiguous
        return spans

    @cached_property
    def _by_text(self) -> dict[str, list[int]]:
        """The documents of each text, by their index."""
        found: dict[str, list[int]] = {}
        for n, (passage, _) in enumerate(self.passages):
            found.setdefault(passage.text, []).append(n)
        return found


def _places(text: str, piece: str) -> Iterator[int]:
    at = text.find(piece)
    while at >= 0:
        yield at
        at = text.find(piece, at + 1)


_scope: ContextVar[Highlighting | None] = ContextVar("seka_highlighting", default=None)


@contextmanager
def highlighting(
    documents: Iterable[object] | Passage, *, question: str = "", highlighter: str | Highlighter | None = None
) -> Iterator[Highlighting]:
    """Highlight these documents in every prompt that a model is given inside the block, through any framework.

    A document counts where its text stands unchanged, in a plain prompt or in the messages of the user and the system, and
    no more often than it was given: once, or as often as documents of this text are among them. Prompts that have highlights
    of their own are left as they are. Documents are found by their text, so a document that copies an instruction can
    highlight that instruction where it is not itself in the prompt: use it for documents that you trust, and
    ``Prompt.highlight`` or a chain for others.

    Args:
        documents: one or several: str, Passage, or the documents of a framework.
        question: what a highlighter chooses for.
        highlighter: by default "sentences" if there is a question, else "all".

    Raises:
        SteeringError: at the end, if prompts were given to a model and nothing was highlighted in any of them.
        DocumentError: something that is no document.
    """
    given = [documents] if isinstance(documents, Passage) or is_item(documents) else documents
    passages = [p for p in map(as_passage, given) if p.text.strip()]
    choose = as_highlighter(highlighter or ("sentences" if question else "all"))
    chosen = choose_spans(choose, question, passages)
    scope = Highlighting(tuple(zip(passages, chosen.spans, strict=True)), chosen.distrusted)
    token = _scope.set(scope)
    try:
        yield scope
    finally:
        _scope.reset(token)
    if scope.passages and scope.prompts and not scope.marked:
        highlights = sum(map(bool, chosen.spans))
        if not highlights:
            why = "; ".join(chosen.warnings) or "give another highlighter, such as 'all'"
            raise SteeringError(f"highlighting: the highlighter chose nothing in {len(passages)} documents: {why}")
        raise SteeringError(
            f"highlighting: none of {highlights} documents stands in any of {scope.prompts} prompts unchanged and no more "
            "often than it was given, so nothing was highlighted"
        )


@contextmanager
def no_highlighting() -> Iterator[None]:
    """No open block looks at the prompts inside: for who marked them already, or wants them unmarked."""
    token = _scope.set(None)
    try:
        yield
    finally:
        _scope.reset(token)


def open_highlighting() -> Highlighting | None:
    """The block that is open here."""
    return _scope.get()


def in_scope(prompt: Prompt) -> Prompt:
    """The prompt with the highlights of the open block, if there is one and it has none of its own."""
    scope = _scope.get()
    if scope is None or prompt.spans:
        return prompt
    return replace(prompt, spans=scope.find([prompt.text])[0])


def messages_in_scope(messages: Sequence[Message]) -> Sequence[Message]:
    """``in_scope`` for a conversation: what the user and the system say counts as one prompt."""
    scope = _scope.get()
    if scope is None:
        return messages
    said = {
        i: m["content"]
        for i, m in enumerate(messages)
        if m.get("role") in ("user", "system", "developer") and isinstance(m.get("content"), str | Prompt)
    }
    if any(isinstance(content, Prompt) and content.spans for content in said.values()):
        return messages
    new = list(messages)
    for (i, content), spans in zip(said.items(), scope.find([str(c) for c in said.values()]), strict=True):
        new[i] = {**messages[i], "content": Prompt(str(content), spans)}
    return new
