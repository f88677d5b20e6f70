"""BM25: the known formula, order, edges."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.errors import DocumentError
from seka_rag.retrieval.bm25 import BM25Retriever
from seka_rag.retrieval.documents import Document
from seka_rag.text.passages import Passage
from seka_rag.text.words import words

DOCS = ["Ada lives in Lyon.", "Boris lives in Oslo with a cat.", "A cat sleeps.", "???"]
PROSE = st.lists(st.sampled_from("ada cat lyon oslo the it".split()), max_size=6).map(" ".join)


def test_best_first_with_scores_and_none_that_share_no_word() -> None:
    found = BM25Retriever(DOCS)("Where is the CAT of Boris?")
    assert [p.text for p in found] == [DOCS[1], DOCS[2]]
    assert found[0].score > found[1].score > 0
    assert BM25Retriever(DOCS)("zebra") == []
    assert BM25Retriever(DOCS)("?!") == []


def test_k_limits_and_never_more_than_exist() -> None:
    assert len(BM25Retriever(DOCS, k=1)("lives in")) == 1
    assert len(BM25Retriever(DOCS, k=99)("lives in")) == 2


def test_ties_keep_the_order_of_the_passages() -> None:
    retriever = BM25Retriever([Passage("same words", source=str(i)) for i in range(5)], k=3)
    assert [p.source for p in retriever("words")] == ["0", "1", "2"]


def test_documents_are_split_and_keep_their_source() -> None:
    retriever = BM25Retriever([Document("x " * 500 + "\n\nThe parrot speaks.", "a.txt", {"k": 1})])
    (found,) = retriever("parrot")
    assert found.source == "a.txt"
    assert found.metadata["k"] == 1
    assert len(retriever) == 2


def test_stopwords() -> None:
    assert len(BM25Retriever(DOCS)("in")) == 2
    assert BM25Retriever(DOCS, stopwords=True)("in") == []
    assert BM25Retriever(DOCS, stopwords=["Lives", "in"])("lives in") == []


def test_unicode() -> None:
    assert BM25Retriever(["Straße in KÖLN", "東京タワー"])("köln")[0].text == "Straße in KÖLN"
    assert BM25Retriever(["Straße in KÖLN", "東京タワー"])("東京はどこ")[0].text == "東京タワー"


@pytest.mark.parametrize("bad", [[], ["", "?!"], "text", Document("x"), [3]])
def test_nothing_to_search_in(bad: object) -> None:
    with pytest.raises(DocumentError):
        BM25Retriever(bad)  # type: ignore[arg-type]


def test_bad_k_and_empty_question() -> None:
    with pytest.raises(DocumentError, match="k=0"):
        BM25Retriever(DOCS, k=0)
    with pytest.raises(DocumentError, match="question is empty"):
        BM25Retriever(DOCS)(" \n")


@given(st.lists(PROSE, min_size=1, max_size=5), PROSE)
def test_scores_are_those_of_the_formula(texts: list[str], question: str) -> None:
    bags = [Counter(words(t)) for t in texts]
    if not any(bags) or not question.strip():
        return
    mean = sum(b.total() for b in bags) / len(bags)
    expected = []
    for bag in bags:
        score = 0.0
        for word in words(question):
            n = sum(word in b for b in bags)
            idf = math.log(1 + (len(bags) - n + 0.5) / (n + 0.5))
            score += idf * bag[word] / (bag[word] + 1.5 * (1 - 0.75 + 0.75 * bag.total() / mean))
        expected.append(score)
    found = BM25Retriever([Passage(t, source=str(i)) for i, t in enumerate(texts)], k=9)(question)
    assert {int(p.source or 0): p.score for p in found} == pytest.approx(
        {i: s for i, s in enumerate(expected) if s > 0}, rel=1e-5
    )
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)


def test_real_books_find_their_own_sentences(shared_data) -> None:
    from seka_rag.retrieval.documents import read_documents

    documents = read_documents(shared_data / "docs")
    retriever = BM25Retriever(documents, k=5)
    assert len(retriever) > 1000
    best = retriever("the King of Bohemia and the photograph of Irene Adler")
    assert (best[0].source or "").endswith("sherlock_holmes.txt")
    assert retriever("the King of Bohemia and the photograph of Irene Adler") == best


def test_how_words_are_set_does_not_hide_a_passage() -> None:
    texts = ["The ferry is blue.", "Chil\u00addren tra\u00advel free.", "Se-\nniors pay half.", "เด็กเดินทางฟรี"]
    retriever = BM25Retriever(texts, k=1)
    assert retriever("Do children travel free?")[0].text == texts[1]
    assert retriever("What do seniors pay?")[0].text == texts[2]
    assert retriever("เด็กเดินทางฟรีไหม")[0].text == texts[3]
