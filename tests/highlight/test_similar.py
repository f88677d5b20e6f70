"""Closest in meaning: what is marked, with vectors that can be written down, and models of both frameworks."""

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding

from seka_rag import Rag, SekaError, Similar, Trusted, TrustPolicy
from seka_rag.errors import SpanError
from seka_rag.text.passages import Passage
from seka_rag.text.spans import Span

VECTORS = {
    "Where does Ada live?": (1.0, 0.0),
    "Ada's home is in Lyon.": (0.9, 0.1),
    "It rains.": (-1.0, 0.2),
    "Ada's home is in Lyon. It rains.": (0.5, 0.5),
    "The harbour is busy.": (0.1, 3.0),
    "A zero.": (0.0, 0.0),
}
QUESTION = "Where does Ada live?"
PASSAGES = [Passage("The harbour is busy.", source="a"), Passage(" Ada's home is in Lyon. It rains.\n", source="b")]


def vectors(texts: list[str]) -> list[tuple[float, float]]:
    return [VECTORS[text] for text in texts]


class OfLangChain(Embeddings):
    def embed_documents(self, texts):
        assert QUESTION not in texts
        return vectors(texts)

    def embed_query(self, text):
        return vectors([text])[0]


class OfLlamaIndex(BaseEmbedding):
    def _get_text_embedding(self, text):
        assert text != QUESTION
        return vectors([text])[0]

    def _get_query_embedding(self, query):
        return vectors([query])[0]

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)


@pytest.mark.parametrize("embed", [vectors, OfLangChain(), OfLlamaIndex(), lambda texts: np.array(vectors(texts))])
def test_the_closest_passage_or_sentence_is_marked(embed):
    assert Similar(embed)(QUESTION, PASSAGES) == [(), (Span(1, 33, 1.0, "b"),)]
    assert Similar(embed, unit="sentence")(QUESTION, PASSAGES) == [(), (Span(1, 23, 1.0, "b"),)]
    two = Similar(embed, unit="sentence", top=2)(QUESTION, PASSAGES)  # the harbour is at cosine .03, the rain below 0
    assert two == [(Span(0, 20, 1.0, "a"),), (Span(1, 23, 1.0, "b"),)]


def test_length_does_not_count_and_a_zero_is_far_from_everything():
    assert Similar(vectors, top=1)(QUESTION, [Passage("The harbour is busy."), Passage("A zero.")])[0] != ()
    assert Similar(vectors)(QUESTION, [Passage("A zero."), Passage("It rains.")])[0] != ()


def test_nothing_to_compare_asks_no_model():
    def refuse(texts):
        raise AssertionError(texts)

    assert Similar(refuse)(QUESTION, []) == []
    assert Similar(refuse)(QUESTION, [Passage(" \n")]) == [()]


def test_untrusted_passages_are_not_compared():
    highlighter = Trusted(Similar(vectors), TrustPolicy(sources=["a"]))
    assert highlighter(QUESTION, PASSAGES) == [(Span(0, 20, 1.0, "a"),), ()]


def test_it_is_a_highlighter_of_rag():
    from seka_rag import SteeredModel

    rag = Rag(SteeredModel.from_pretrained("seka-demo"), lambda question: PASSAGES, highlighter=Similar(vectors))
    assert rag.prepare(QUESTION).prompt.highlighted == ("Ada's home is in Lyon. It rains.",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed": None}, "embedding model of LangChain or LlamaIndex"),
        ({"embed": OfLangChain}, "OfLangChain is a class"),
        ({"embed": vectors, "top": 0}, "top=0"),
        ({"embed": vectors, "unit": "word"}, "unit='word'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(SpanError, match=message):
        Similar(**settings)


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        (lambda texts: [(1.0,)], "2 vectors for 3 texts"),
        (lambda texts: [(1.0,) * len(text) for text in texts], "different lengths"),
        (lambda texts: [(float("nan"),) for _ in texts], "not finite"),
    ],
)
def test_wrong_vectors(embed, message):
    with pytest.raises(SekaError, match=message):
        Similar(embed)(QUESTION, PASSAGES)
