"""Whole passages: which ones, with which weight."""

import pytest

from seka_rag.errors import SekaError, SpanError
from seka_rag.highlight.base import Highlighter, check_spans
from seka_rag.highlight.registry import HIGHLIGHTERS, as_highlighter
from seka_rag.highlight.select import AllPassages, NoPassages, TopK
from seka_rag.highlight.sentences import Sentences
from seka_rag.text.passages import Passage
from seka_rag.text.spans import Span

THREE = [Passage(" low \n", 1.0, "a"), Passage("top", 4.0, "b"), Passage("mid", 2.0, "c")]


def test_all_marks_everything_without_white_space_around() -> None:
    assert AllPassages()("q", THREE) == [(Span(1, 4, 1.0, "a"),), (Span(0, 3, 1.0, "b"),), (Span(0, 3, 1.0, "c"),)]
    assert AllPassages()("q", [Passage(""), Passage(" \n")]) == [(), ()]
    assert AllPassages()("q", []) == NoPassages()("q", []) == TopK()("q", []) == []


def test_top_k_takes_the_largest_scores_and_keeps_the_order_of_passages() -> None:
    assert [len(s) for s in TopK(2)("q", THREE)] == [0, 1, 1]
    assert [len(s) for s in TopK(9)("q", THREE)] == [1, 1, 1]


def test_top_k_without_scores_trusts_the_retrievers_order() -> None:
    assert [len(s) for s in TopK(1)("q", [Passage("a"), Passage("b")])] == [1, 0]
    assert [len(s) for s in TopK(1)("q", [Passage("a"), Passage("b", -3.0)])] == [0, 1]
    assert [len(s) for s in TopK(1)("q", [Passage("a", 1.0), Passage("b", 1.0)])] == [1, 0]


def test_weights_by_score_are_shares_of_the_best() -> None:
    assert [s[0].weight for s in AllPassages(weight_by_score=True)("q", THREE)] == [0.25, 1.0, 0.5]
    assert AllPassages(weight_by_score=True)("q", [Passage("a", -1.0), Passage("b", 2.0)])[0] == ()
    assert AllPassages(weight_by_score=True)("q", []) == []


@pytest.mark.parametrize("scores", [[1.0, None], [None], [-2.0, 0.0]])
def test_weights_need_scores(scores: list) -> None:
    with pytest.raises(SpanError, match="weight_by_score=True"):
        AllPassages(weight_by_score=True)("q", [Passage("a", s) for s in scores])


def test_k_below_one() -> None:
    with pytest.raises(SpanError, match="k=0"):
        TopK(0)


def test_registry() -> None:
    assert as_highlighter("all") == AllPassages()
    assert as_highlighter("top_k") == TopK(1)
    assert as_highlighter("sentences") == Sentences()
    assert as_highlighter("off") == NoPassages()
    own = TopK(3)
    assert as_highlighter(own) is own
    assert all(isinstance(make(), Highlighter) for make in HIGHLIGHTERS.values())


@pytest.mark.parametrize("bad", ["topk", "", None, 3, TopK])
def test_registry_refuses(bad: object) -> None:
    with pytest.raises(SekaError, match=r"all, top_k, sentences, off|TopK\(\.\.\.\)"):
        as_highlighter(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("spans", [[], [(), ()], [(Span(0, 9),)], [("ab",)]])
def test_results_that_do_not_fit_are_refused(spans: list) -> None:
    with pytest.raises(SpanError, match=r"highlighter|passage 0"):
        check_spans([Passage("ab")], spans)
