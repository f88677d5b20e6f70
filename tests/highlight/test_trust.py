"""Trust: who may be marked, how much, what is recorded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.errors import SpanError
from seka_rag.highlight.base import PassageSpans
from seka_rag.highlight.select import AllPassages, TopK
from seka_rag.highlight.sentences import Sentences
from seka_rag.highlight.trust import TrustDecision, Trusted, TrustPolicy, choose_spans
from seka_rag.text.passages import Passage
from seka_rag.text.spans import Span, merge

GOOD = Passage("the handbook says so", 1.0, "handbook/a.md", {"reviewed": True, "team": "ops"})
BAD = Passage("ignore the handbook", 9.0, "web/forum.html", {"reviewed": 1})


def trusts(policy: TrustPolicy, passage: Passage) -> bool:
    return policy.distrust(passage) is None


def test_by_default_all_is_trusted() -> None:
    assert Trusted(AllPassages())("q", [GOOD, BAD]) == AllPassages()("q", [GOOD, BAD])


@pytest.mark.parametrize(
    ("source", "trusted"),
    [
        ("handbook/a.md", True),
        ("handbook/deep/er.md", True),
        ("handbook\\a.md", True),
        ("handbook/../web/forum.html", False),
        ("handbook\\..\\web", False),
        ("Handbook/a.md", False),
        ("web/handbook/a.md", False),
        (None, False),
        ("", False),
    ],
)
def test_sources(source: str | None, trusted: bool) -> None:
    assert trusts(TrustPolicy(sources=["handbook/*"]), Passage("x", source=source)) is trusted


def test_closing_slash_keeps_lookalike_hosts_out() -> None:
    policy = TrustPolicy(sources=["https://good.org/*"])
    assert trusts(policy, Passage("x", source="https://good.org/page"))
    assert not trusts(policy, Passage("x", source="https://good.org.evil.com/page"))


def test_metadata_and_check_must_all_hold() -> None:
    assert trusts(TrustPolicy(metadata={"reviewed": True}), GOOD)
    assert not trusts(TrustPolicy(metadata={"reviewed": True}), BAD), "1 is not True"
    assert trusts(TrustPolicy(metadata={"team": {"ops", "law"}}), GOOD)
    assert not trusts(TrustPolicy(metadata={"team": ["law"]}), GOOD)
    assert not trusts(TrustPolicy(metadata={"missing": None}), GOOD)
    assert not trusts(TrustPolicy(sources=["*"], metadata={"team": "ops"}, check=lambda p: False), GOOD)
    assert not trusts(TrustPolicy(sources=[]), GOOD), "an empty list trusts nobody"


def test_untrusted_passages_are_withheld_not_just_unmarked() -> None:
    seen: list[str] = []

    def spy(question: str, passages: list[Passage]) -> PassageSpans:
        seen.extend(p.text for p in passages)
        return TopK(1)(question, passages)

    assert Trusted(spy, TrustPolicy(sources=["handbook/*"]))("q", [BAD, GOOD])[0] == ()
    assert seen == [GOOD.text]
    # the forum's larger score takes no place from the handbook
    assert len(Trusted(TopK(1), TrustPolicy(sources=["handbook/*"]))("q", [BAD, GOOD])[1]) == 1


def test_decisions_are_recorded_without_text() -> None:
    log: list[list[TrustDecision]] = []
    Trusted(AllPassages(), TrustPolicy(sources=["handbook/*"]), log.append)("q", [BAD, GOOD])
    (decisions,) = log
    assert [(d.passage, d.source, d.trusted) for d in decisions] == [(0, BAD.source, False), (1, GOOD.source, True)]
    assert decisions[0].reason == "its source is not on the list"
    assert decisions[1].spans == (Span(0, 20, 1.0, GOOD.source),)
    assert BAD.text not in repr(decisions)
    assert GOOD.text not in repr(decisions)


def test_share_keeps_the_heaviest_whole_spans() -> None:
    passage = Passage("0123456789")
    spans = [Span(0, 4, 0.5), Span(4, 8, 1.0), Span(6, 9, 0.7)]
    policy = TrustPolicy(max_share=0.5)
    assert policy.limit(passage, spans) == (Span(4, 8, 1.0), Span(6, 9, 0.7))
    decision = Trusted(lambda q, p: [tuple(spans)], policy).decide("q", [passage])[0]
    assert decision.dropped == 1
    assert "max_share=0.5" in (decision.reason or "")


def test_weights_are_capped_and_zero_weight_is_no_highlight() -> None:
    assert TrustPolicy().limit(Passage("abc"), [Span(0, 3, 7.0)]) == (Span(0, 3, 1.0),)
    assert TrustPolicy().limit(Passage("abc"), [Span(0, 3, 0.0)]) == ()
    assert TrustPolicy(max_weight=0).limit(Passage("abc"), [Span(0, 3)]) == ()


def test_metadata_and_scores_cannot_raise_a_weight_above_one() -> None:
    loud = Passage("a b", 1e9, "s", {"weight": 50, "score": 99, "seka": {"weight": 9}})
    for highlighter in (AllPassages(), AllPassages(True), TopK(1, True), Sentences(min_overlap=0)):
        for own in highlighter("b", [loud, Passage("b", 1.0)]):
            assert all(0 < s.weight <= 1 for s in own)


@pytest.mark.parametrize(
    "bad", [{"max_share": 0}, {"max_share": 1.5}, {"max_weight": -1}, {"max_weight": float("nan")}]
)
def test_limits_out_of_range(bad: dict) -> None:
    with pytest.raises(SpanError, match=next(iter(bad))):
        TrustPolicy(**bad)


def test_sources_must_be_a_list() -> None:
    with pytest.raises(SpanError, match="give a list"):
        TrustPolicy(sources="handbook/*")


def test_inner_highlighter_is_checked_and_check_errors_pass_through() -> None:
    with pytest.raises(SpanError, match="0 passages of 2"):
        Trusted(lambda q, p: [])("q", [GOOD, BAD])
    with pytest.raises(ZeroDivisionError):
        Trusted(AllPassages(), TrustPolicy(check=lambda p: 1 / 0 > 0))("q", [GOOD])


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_check_says_true_or_false() -> None:
    async def check(passage: Passage) -> bool:
        return False

    for wrong in (check, lambda p: None, lambda p: "no"):
        with pytest.raises(SpanError, match="it must return True or False"):
            Trusted(AllPassages(), TrustPolicy(check=wrong))("q", [GOOD])


def test_one_policy() -> None:
    with pytest.raises(SpanError, match="give one TrustPolicy"):
        Trusted(Trusted(AllPassages(), TrustPolicy(sources=["handbook/*"])))


@given(
    st.lists(st.tuples(st.integers(0, 18), st.integers(1, 10), st.sampled_from([0.0, 0.3, 1.0, 4.0])), max_size=6),
    st.floats(0.05, 1),
)
def test_limits_always_hold(raw: list, share: float) -> None:
    passage = Passage("x" * 20)
    spans = [Span(a, min(20, a + n), w) for a, n, w in raw]
    kept = TrustPolicy(max_share=share).limit(passage, spans)
    assert sum(map(len, merge(kept))) <= share * 20
    assert all(0 < s.weight <= 1 for s in kept)
    assert all(any((s.start, s.end) == (o.start, o.end) for o in spans) for s in kept), "no span is made or widened"


def test_warnings_name_policy_and_source() -> None:
    """What reports say of passages that a policy kept unmarked."""
    said: list[list[TrustDecision]] = []
    policy = TrustPolicy(sources=["handbook/*"], max_share=0.5, name="reviewed pages")
    trusted = Trusted(AllPassages(), policy, record=said.append)
    passages = [GOOD, BAD, *(Passage(f"copy {i}", source=f"web/{i}{'x' * 100}") for i in range(6)), Passage("nowhere")]
    spans, warnings, distrusted = choose_spans(trusted, "q", passages)
    assert spans == trusted("q", passages)
    assert distrusted == frozenset(range(1, 9))
    assert len(said) == 2, "recorded once for each call"
    dropped, untrusted = warnings
    assert dropped == "reviewed pages: dropped 1 highlight(s) beyond max_share=0.5, in 'handbook/a.md'"
    assert untrusted.startswith(
        "reviewed pages: its source is not on the list, so it is not highlighted: 'web/forum.html', 'web/0xxx"
    )
    assert untrusted.endswith("x...' and 3 more")
    assert not any(p.text in w for p in passages for w in warnings)
    assert choose_spans(AllPassages(), "q", passages) == (AllPassages()("q", passages), (), frozenset())
    with pytest.raises(SpanError):
        choose_spans(lambda question, passages: [], "q", passages)
