"""A retriever by words (BM25): exact, deterministic, no model and no network."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from seka_rag.errors import DocumentError
from seka_rag.retrieval.documents import Document
from seka_rag.retrieval.split import split
from seka_rag.text.passages import Passage
from seka_rag.text.words import STOPWORDS, words


class BM25Retriever:
    """Finds the passages that share the most telling words with a question.

    Words are compared case-folded and unstemmed. The same documents and question always give the same passages; of
    equal scores the earlier passage comes first. Reading is safe from several threads.

    Args:
        documents: documents, which are cut with ``split``'s default lengths, or passages, or plain texts.
        k: the most passages to return, at least 1.
        stopwords: words to ignore: True for the common English ones, or your own collection.

    Raises:
        DocumentError: nothing to search in, or an argument of the wrong kind or range.
    """

    def __init__(
        self,
        documents: Sequence[Document | Passage | str],
        k: int = 4,
        *,
        stopwords: bool | Collection[str] = False,
    ) -> None:
        import bm25s

        if k < 1:
            raise DocumentError(f"k={k}: give at least 1")
        self.k = k
        self.passages = _passages(documents)
        if isinstance(stopwords, bool):
            self._stopwords = STOPWORDS if stopwords else frozenset()
        else:
            self._stopwords = frozenset(word for entry in stopwords for word in words(entry))
        tokens = [self._tokens(passage.text) for passage in self.passages]
        if not any(tokens):
            raise DocumentError(f"none of the {len(tokens)} passages has a word to search for")
        self._vocabulary = {word for own in tokens for word in own}
        self._index = bm25s.BM25(backend="numpy")  # the same arithmetic whatever else is installed
        self._index.index(tokens, show_progress=False)

    def __call__(self, question: str) -> list[Passage]:
        """The best passages first, with their scores (above 0, without a fixed scale).

        At most ``k``, and only those that share a word with the question: possibly none.

        Raises:
            DocumentError: the question is empty.
        """
        if not question.strip():
            raise DocumentError("the question is empty: ask something")
        asked = [word for word in self._tokens(question) if word in self._vocabulary]
        if not asked:
            return []
        scores = [float(score) for score in self._index.get_scores(asked)]
        best = sorted(range(len(scores)), key=lambda i: -scores[i])[: self.k]  # stable: ties keep their order
        return [replace(self.passages[i], score=scores[i]) for i in best if scores[i] > 0]

    def __len__(self) -> int:
        """How many passages there are."""
        return len(self.passages)

    def _tokens(self, text: str) -> list[str]:
        return [word for word in words(text) if word not in self._stopwords]


def _passages(documents: Sequence[Document | Passage | str]) -> list[Passage]:
    if isinstance(documents, (str, Document, Passage)):
        raise DocumentError(f"give a list of documents or passages, not one {type(documents).__name__}")
    passages: list[Passage] = []
    for item in documents:
        if isinstance(item, Document):
            passages += split([item])
        elif isinstance(item, str):
            passages.append(Passage(item))
        elif isinstance(item, Passage):
            passages.append(item)
        else:
            raise DocumentError(f"{type(item).__name__} is neither Document, Passage nor str")
    if not passages:
        raise DocumentError("no documents to search in")
    return passages
