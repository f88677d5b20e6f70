"""Passages: known cuts, and what holds for any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.errors import DocumentError
from seka_rag.retrieval.documents import Document
from seka_rag.retrieval.split import split
from seka_rag.text.sentences import sentences

TEXT = st.lists(st.sampled_from(["One two. ", "Three! ", "four ", "\n\n", "Longerword", "\n", " "]), max_size=40).map(
    "".join
)


def cut(text: str, max_chars: int, overlap: int = 0) -> list[str]:
    return [p.text for p in split([Document(text)], max_chars, overlap)]


def test_paragraphs_are_put_together_while_they_fit() -> None:
    assert cut("aa.\n\nbb.\n\ncc.", 8) == ["aa.\n\nbb.", "cc."]
    assert cut("aa.\n\nbb.\n\ncc.", 100) == ["aa.\n\nbb.\n\ncc."]


def test_long_paragraphs_are_cut_between_sentences() -> None:
    assert cut("Ada left. Boris stayed. Clara came.", 25) == ["Ada left. Boris stayed.", "Clara came."]


def test_a_too_long_sentence_is_cut_between_words_and_a_word_anywhere() -> None:
    assert cut("one two three four", 9) == ["one two", "three", "four"]
    assert cut("abcdefghij", 4) == ["abcd", "efgh", "ij"]


def test_overlap_repeats_whole_sentences() -> None:
    assert cut("Aa b. Cc d. Ee f. Gg h.", 11, 6) == ["Aa b. Cc d.", "Cc d. Ee f.", "Ee f. Gg h."]
    assert cut("Aa b. Cc d. Ee f. Gg h.", 11, 4) == ["Aa b. Cc d.", "Ee f. Gg h."]


def test_metadata_tells_where_a_passage_stood() -> None:
    document = Document("Ada left.\nBoris stayed.", "a.pdf", {"pages": 2, "page_starts": (0, 10), "k": 1})
    first, second = split([document], max_chars=14)
    assert (first.source, first.score) == ("a.pdf", None)
    assert first.metadata == {"pages": 2, "k": 1, "start": 0, "end": 9, "page": 1}
    assert second.metadata == {"pages": 2, "k": 1, "start": 10, "end": 23, "page": 2}


def test_empty() -> None:
    assert split([]) == split([Document(" \n\n ")]) == []


@pytest.mark.parametrize(("max_chars", "overlap"), [(0, 0), (10, 10), (10, -1)])
def test_arguments_out_of_range(max_chars: int, overlap: int) -> None:
    with pytest.raises(DocumentError, match=r"max_chars|overlap"):
        split([Document("a")], max_chars, overlap)


def test_one_document_must_be_in_a_list() -> None:
    with pytest.raises(DocumentError, match=r"\[document\]"):
        split(Document("a"))  # type: ignore[arg-type]


@given(TEXT, st.integers(1, 40), st.integers(0, 39))
def test_passages_of_any_text(text: str, max_chars: int, overlap: int) -> None:
    overlap = min(overlap, max_chars - 1)
    passages = split([Document(text)], max_chars, overlap)
    covered = [False] * len(text)
    last_start, last_end = -1, 0
    own = {(s.start, s.end) for s in sentences(text) if len(s) <= max_chars}
    for passage in passages:
        start, end = passage.metadata["start"], passage.metadata["end"]
        assert passage.text == text[start:end] == passage.text.strip() != ""
        assert len(passage.text) <= max_chars
        assert start > last_start
        assert end > last_end
        assert last_end - start <= overlap
        assert all(e <= start or s >= end or (start <= s and e <= end) for s, e in own), "no fitting sentence is cut"
        covered[start:end] = [True] * (end - start)
        last_start, last_end = start, end
    assert all(done or c.isspace() for done, c in zip(covered, text, strict=True)), "nothing is lost"
