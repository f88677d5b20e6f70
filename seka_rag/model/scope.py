"""``with highlighting(documents)``: highlights for the prompts of a plain script, where nobody keeps offsets."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from seka_rag.errors import SteeringError
from seka_rag.hf.chat import Message
from seka_rag.highlight.base import Highlighter, check_spans
from seka_rag.highlight.registry import as_highlighter
from seka_rag.retrieval.retrievers import as_passage
from seka_rag.text.passages import Passage
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span, shift


@dataclass
class Highlighting:
    """What became of the documents of one ``with highlighting(...)``.

    Attributes:
        prompts: how many prompts without highlights of their own were given to a model inside.
        marked: how many of them hold a document.
        ambiguous: documents that stood in a prompt more than once, and so were left unmarked there.
    """

    passages: tuple[tuple[Passage, tuple[Span, ...]], ...]
    prompts: int = 0
    marked: int = 0
    ambiguous: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def find(self, texts: Sequence[str]) -> list[tuple[Span, ...]]:
        """Spans in each text of one prompt, for the documents that stand exactly once in all of them; counts the prompt.

        An integration that reports highlights itself asks this before it gives the model a prompt, and tokenizes inside
        ``with no_highlighting()``, so that the prompt is not looked at again.
        """
        spans: list[tuple[Span, ...]] = [() for _ in texts]
        ambiguous = 0
        for passage, own in self.passages:
            places = [(i, at) for i, text in enumerate(texts) for at in _first_two(text, passage.text)]
            if len(places) == 1:
                ((i, at),) = places
                spans[i] += shift(own, at)
            ambiguous += len(places) > 1
        with self._counting:
            self.prompts += 1
            self.marked += any(spans)
            self.ambiguous += ambiguous
        return spans


def _first_two(text: str, piece: str) -> list[int]:
    first = text.find(piece)
    second = text.find(piece, first + 1) if first >= 0 else -1
    return [at for at in (first, second) if at >= 0]


_scope: ContextVar[Highlighting | None] = ContextVar("seka_highlighting", default=None)


@contextmanager
def highlighting(
    documents: Iterable[object], *, question: str = "", highlighter: str | Highlighter | None = None
) -> Iterator[Highlighting]:
    """Highlight these documents in every prompt that a model is given inside the block, through any framework.

    A document counts where its text stands exactly once, unchanged: in a plain prompt, or in the messages of the user and
    the system. Prompts that have highlights of their own are left as they are. Documents are found by their text, so a
    document that copies an instruction can highlight that instruction where it is not itself in the prompt: use it for
    documents that you trust, and ``Prompt.highlight`` or a chain for others.

    Args:
        documents: one or several: str, Passage, or the documents of a framework.
        question: what a highlighter chooses for.
        highlighter: by default "sentences" if there is a question, else "all".

    Raises:
        SteeringError: at the end, if prompts were given to a model and no document stood in any of them.
        DocumentError: something that is no document.
    """
    given = [documents] if isinstance(documents, str | Passage) else documents
    passages = [p for p in map(as_passage, given) if p.text.strip()]
    choose = as_highlighter(highlighter or ("sentences" if question else "all"))
    spans = check_spans(passages, choose(question, passages))
    scope = Highlighting(tuple(zip(passages, spans, strict=True)))
    token = _scope.set(scope)
    try:
        yield scope
    finally:
        _scope.reset(token)
    if scope.passages and scope.prompts and not scope.marked:
        raise SteeringError(
            f"highlighting: none of {len(passages)} documents stands in any of {scope.prompts} prompts exactly once and "
            "unchanged, so nothing was highlighted"
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
