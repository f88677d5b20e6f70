"""A source gets no more highlights for coming in several passages: known answers."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seka_rag.highlight.sentences import Sentences
from seka_rag.highlight.trust import Trusted, TrustPolicy
from seka_rag.rag import Rag
from seka_rag.retrieval.retrievers import as_passage
from seka_rag.text.passages import Passage
from seka_rag.text.spans import Span

QUESTION = "Where is the house of Xenia?"
LIES = [f"The house of Xenia is in Turin, says {name}." for name in ("Ada", "Boris", "Clara", "Doris", "Emil")]
TRUTH = "The house of Xenia is in Florence."


def marked(passages: list[Passage], question: str = QUESTION, **options: int) -> list[list[str]]:
    found = Sentences(**options)(question, passages)
    assert all(s.source == p.source for p, spans in zip(passages, found, strict=True) for s in spans)
    return [[p.text[s.start : s.end] for s in spans] for p, spans in zip(passages, found, strict=True)]


def test_five_passages_of_a_source_get_what_their_text_gets_in_one() -> None:
    whole = marked([Passage(TRUTH, source="a"), Passage(" ".join(LIES), source="b")])
    cut = marked([Passage(TRUTH, source="a"), *(Passage(lie, source="b") for lie in LIES)])
    assert whole == [[TRUTH], LIES[:4]]
    assert cut == [[TRUTH], *([lie] for lie in LIES[:4]), []]
    cut = marked([*(Passage(lie, source="b") for lie in LIES), Passage(TRUTH, source="a")])
    assert cut[-1] == [TRUTH]


def test_the_limit_grows_with_top() -> None:
    twice = [Passage(f"{lie} The house is old. Xenia likes the house, says {lie[-6:]}", source="b") for lie in LIES]
    assert sum(map(len, marked(twice))) == 4
    assert sum(map(len, marked(twice, top=2))) == 5


def test_of_a_source_those_with_the_most_words_of_the_question_stay() -> None:
    vague = [f"Xenia likes her house, the {n} one." for n in ("first", "second", "third", "fourth")]
    passages = [
        *(Passage(text, source="b") for text in vague),
        Passage("In Bari is the old house of Xenia.", source="b"),
    ]
    assert marked(passages, "Where is the old house of Xenia?") == [
        [vague[0]],
        [vague[1]],
        [vague[2]],
        [],
        ["In Bari is the old house of Xenia."],
    ]


def test_passages_without_a_source_each_count_as_their_own() -> None:
    assert marked([Passage(lie) for lie in LIES]) == [[lie] for lie in LIES]
    assert marked([Passage(lie, source="") for lie in LIES]) == [[lie] for lie in LIES]


@pytest.mark.parametrize("copy", [TRUTH, TRUTH.replace(" is in", "\nis in"), "It is the house of Xenia: in Florence!"])
def test_a_sentence_counts_once_in_a_source(copy: str) -> None:
    assert marked([Passage(TRUTH, source="a"), Passage(copy, source="a")]) == [[TRUTH], []]
    assert marked([Passage(TRUTH, source="a"), Passage(copy, source="b")]) == [[TRUTH], [copy]]


def test_a_document_tells_passages_of_one_source_apart_or_joins_those_of_several() -> None:
    one = [Passage(lie, source=f"{i}.txt", document="x") for i, lie in enumerate(LIES)]
    assert sum(map(len, marked(one))) == 4
    apart = [Passage(lie, source="b", document=str(i)) for i, lie in enumerate(LIES)]
    assert sum(map(len, marked(apart))) == 5


def test_what_a_policy_withholds_takes_no_place() -> None:
    passages = [Passage(lie, source="b", metadata={"n": i}) for i, lie in enumerate(LIES)]
    policy = TrustPolicy(check=lambda passage: passage.metadata["n"] > 0)
    assert list(map(len, Trusted(Sentences(), policy)(QUESTION, passages))) == [0, 1, 1, 1, 1]


def at(spans: Sequence[Span]) -> set[tuple[int, int]]:
    """Without weights: what a source names counts for all its passages."""
    return {(span.start, span.end) for span in spans}


WORD = st.sampled_from("Xenia house Turin old the of lives Bari".split())
PROSE = st.lists(st.lists(WORD, min_size=1, max_size=5).map(lambda w: " ".join(w) + "."), max_size=4).map(" ".join)


@settings(deadline=None)
@given(PROSE, st.lists(st.tuples(PROSE, st.sampled_from(["a", "b", None])), max_size=6))
def test_sources_do_not_touch_each_other_and_none_has_more_than_four(question: str, drafts: list) -> None:
    passages = [Passage(text, source=source) for text, source in drafts]
    found = Sentences()(question, passages)
    for source in ("a", "b"):
        places = [i for i, p in enumerate(passages) if p.source == source]
        assert [found[i] for i in places] == Sentences()(question, [passages[i] for i in places])
        assert sum(len(found[i]) for i in places) <= 4
        alone = [Sentences()(question, [passages[i]])[0] for i in places]
        assert all(at(found[i]) <= at(own) for i, own in zip(places, alone, strict=True))
        assert any(map(len, alone)) == any(found[i] for i in places)
    for i, passage in enumerate(passages):
        if passage.source is None:
            assert [found[i]] == Sentences()(question, [passage])


def test_rag_counts_by_source(steered) -> None:
    asked = Rag(steered, lambda question: [Passage(lie, source="b") for lie in LIES]).prepare(QUESTION)
    assert asked.prompt.highlighted == tuple(LIES[:4])
    assert Rag(steered, lambda question: LIES).prepare(QUESTION).prompt.highlighted == tuple(LIES)


def test_what_documents_of_frameworks_are_parts_of() -> None:
    schema = pytest.importorskip("llama_index.core.schema")
    documents = pytest.importorskip("langchain_core.documents")

    def node(lie: str, whole: str, **metadata: str):
        parent = {schema.NodeRelationship.SOURCE: schema.RelatedNodeInfo(node_id=whole)}
        return as_passage(schema.TextNode(text=lie, metadata=metadata, relationships=parent))

    assert sum(map(len, marked([node(lie, "x") for lie in LIES]))) == 4
    assert sum(map(len, marked([node(lie, str(i)) for i, lie in enumerate(LIES)]))) == 5
    # a reader of pdf files makes a document of each page
    assert sum(map(len, marked([node(lie, str(i), file_path="a.pdf") for i, lie in enumerate(LIES)]))) == 4
    found = [as_passage(documents.Document(page_content=lie, metadata={"source": "b"})) for lie in LIES]
    assert sum(map(len, marked(found))) == 4
    assert sum(map(len, marked([as_passage(documents.Document(page_content=lie)) for lie in LIES]))) == 5
