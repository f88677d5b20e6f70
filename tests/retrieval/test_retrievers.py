"""Other retrievers as ours: real objects of LangChain and LlamaIndex, plain callables, and what is refused."""

import math
from typing import Any

import pytest

from seka_rag.errors import DocumentError, SekaError
from seka_rag.retrieval.bm25 import BM25Retriever
from seka_rag.retrieval.retrievers import as_passage, as_retriever
from seka_rag.text.passages import Passage


def test_callables_of_texts_and_passages() -> None:
    passage = Passage("b", 1.0, "s")
    assert as_retriever(lambda q: [q, passage, "  "])("a") == [Passage("a"), passage]
    assert as_retriever(lambda q: "one text")("a") == [Passage("one text")]
    assert as_retriever(lambda q: passage)("a") == [passage]
    assert as_retriever(lambda q: (t for t in "xy"))("a") == [Passage("x"), Passage("y")]
    assert as_retriever(lambda q: [])("a") == []


def test_our_own_retriever() -> None:
    own = BM25Retriever(["Ada lives in Lyon."])
    assert as_retriever(own)("Ada") == own("Ada")


def test_langchain() -> None:
    pytest.importorskip("langchain_core")
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import RunnableLambda

    class Two(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [
                Document(page_content=query, metadata={"source": "a.md", "relevance_score": 0.5}),
                Document(page_content="b", id="doc-7", metadata={"score": "high"}),
            ]

    first, second = as_retriever(Two())("q")
    assert first == Passage("q", 0.5, "a.md", {"source": "a.md", "relevance_score": 0.5})
    assert second == Passage("b", None, "doc-7", {"score": "high"})
    one = as_retriever(RunnableLambda(lambda q: Document(page_content=q)))
    assert [p.text for p in one("alone")] == ["alone"]


def test_llama_index() -> None:
    pytest.importorskip("llama_index.core")
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    class Two(BaseRetriever):
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            a = TextNode(text="a", metadata={"file_path": "a.md"})
            return [NodeWithScore(node=a, score=0.25), NodeWithScore(node=TextNode(text="b", id_="n-2"))]

    first, second = as_retriever(Two())("q")
    assert first == Passage("a", 0.25, "a.md", {"file_path": "a.md"}), "text alone, without the metadata lines"
    assert second == Passage("b", None, "n-2", {})
    assert as_passage(TextNode(text="bare", id_="n-3")) == Passage("bare", None, "n-3", {})


@pytest.mark.parametrize("score", [math.nan, math.inf, True, "3", None])
def test_scores_that_are_no_numbers_count_as_unknown(score: object) -> None:
    class Node:
        node_id, metadata = "n", None

        def get_content(self) -> str:
            return "t"

    node = Node()
    node.score = score  # type: ignore[attr-defined]
    assert as_passage(node) == Passage("t", None, "n", {})


@pytest.mark.parametrize("bad", [3, "text", None, [Passage("a")], BM25Retriever])
def test_what_is_no_retriever(bad: object) -> None:
    with pytest.raises(SekaError, match=r"not a retriever|is a class"):
        as_retriever(bad)


@pytest.mark.parametrize("result", [None, 3, b"ab", {"text": "a"}, [None], [3], [["nested"]]])
def test_what_a_retriever_must_not_return(result: object) -> None:
    def search(question: str) -> object:
        return result

    with pytest.raises(DocumentError, match="search returned"):
        as_retriever(search)("q")


def test_errors_of_a_retriever_pass_through() -> None:
    def down(question: str) -> list[str]:
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError, match="no answer"):
        as_retriever(down)("q")
