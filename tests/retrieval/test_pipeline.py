"""Files to passages to highlights, through the rooms' public names, on the formats together."""

from pathlib import Path

from seka_rag.highlight.registry import as_highlighter
from seka_rag.highlight.trust import Trusted, TrustPolicy
from seka_rag.retrieval.bm25 import BM25Retriever
from seka_rag.retrieval.documents import read_documents
from seka_rag.retrieval.retrievers import as_retriever


def test_from_files_to_trusted_spans(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("# Staff\n\nAda keeps a parrot. Ada lives in Lyon.", encoding="utf-8")
    (tmp_path / "bad.html").write_text("<p>Ada lives in Oslo. <b>Ada lives in Oslo.</b></p>", encoding="utf-8")
    retriever = as_retriever(BM25Retriever(read_documents(tmp_path)))
    question = "Where does Ada live?"
    passages = retriever("Ada lives")
    spans = Trusted(as_highlighter("sentences"), TrustPolicy(sources=["*/good.md"]))(question, passages)
    marked = {p.text[s.start : s.end] for p, own in zip(passages, spans, strict=True) for s in own}
    assert len(passages) == 2
    assert marked == {"Ada lives in Lyon."}
