"""``with highlighting(documents)``: highlights for the prompts of a plain script, where nobody keeps offsets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from seka_rag.errors import SteeringError
from seka_rag.highlight.base import check_spans
from seka_rag.highlight.registry import as_highlighter
from seka_rag.retrieval.retrievers import as_passage
from seka_rag.text.passages import Passage
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span, shift


@dataclass
class Highlighting:
    """What became of the documents of one ``with highlighting(...)``.

    Attributes:
        prompts: how many prompts were tokenized inside.
        marked: how many of them hold a document.
        ambiguous: documents that stood in a prompt more than once, and so were left unmarked there.
    """

    passages: tuple[tuple[Passage, tuple[Span, ...]], ...]
    prompts: int = 0
    marked: int = 0
    ambiguous: int = 0

    @property
    def digest(self) -> str:
        """Tells one set of documents and spans from another, without their text."""
        told = repr([(passage.text, spans) for passage, spans in self.passages])
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()

    def mark(self, prompt: Prompt) -> Prompt:
        """The prompt with the spans of each document that stands in it once."""
        spans: list[Span] = []
        for passage, own in self.passages:
            at = prompt.text.find(passage.text)
            if at >= 0 and prompt.text.find(passage.text, at + 1) >= 0:
                self.ambiguous += 1
            elif at >= 0:
                spans += shift(own, at)
        return replace(prompt, spans=tuple(spans))


_BETWEEN = "\x1e\n"  # stands in no document
_scope: ContextVar[Highlighting | None] = ContextVar("seka_highlighting", default=None)


@contextmanager
def highlighting(documents: Iterable[Any], *, question: str = "", highlighter: Any = None) -> Iterator[Highlighting]:
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


def open_highlighting() -> Highlighting | None:
    """The block that is open here, for caches: an answer inside it is another than outside."""
    return _scope.get()


def in_scope(prompt: Prompt) -> Prompt:
    """The prompt with the highlights of the open block, if there is one and it has none of its own."""
    scope = _scope.get()
    if scope is None or prompt.spans:
        return prompt
    marked = scope.mark(prompt)
    scope.prompts += 1
    scope.marked += bool(marked.spans)
    return marked


def messages_in_scope(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """``in_scope`` for a conversation: what the user and the system say counts as one text."""
    if _scope.get() is None:
        return messages
    said = [
        i
        for i, m in enumerate(messages)
        if m.get("role") in ("user", "system", "developer") and isinstance(m.get("content"), str | Prompt)
    ]
    marked = in_scope(Prompt.join([messages[i]["content"] for i in said], _BETWEEN))
    new, at = list(messages), 0
    for i in said if marked.spans else ():
        end = at + len(messages[i]["content"])
        new[i] = {**messages[i], "content": marked[at:end]}
        at = end + len(_BETWEEN)
    return new
