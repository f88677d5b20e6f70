"""Which node stands in the context, where several begin alike, are equal, or were left out after they were chosen in."""

from __future__ import annotations

import pytest
from growth import calls
from llama_index.core import get_response_synthesizer
from llama_index.core.postprocessor import LongContextReorder
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.llms.seka import HighlightPostprocessor, SekaLLM, collect_reports

from seka_rag.highlight.select import AllPassages
from seka_rag.highlight.sentences import Sentences
from seka_rag.highlight.trust import Trusted, TrustPolicy

QUESTION = "Where is the workshop of Greta?"
OLD = "The list of workshops has it: the workshop of Greta is in Lisbon, on the second floor of the old mill."
NEW = "The list of workshops has it: the workshop of Greta is in Vienna."
HANDBOOK = TrustPolicy(sources=["handbook/*"])
JOINED = ["compact", "tree_summarize", "simple_summarize"]
MODES = [*JOINED, "refine", "accumulate", "compact_accumulate"]


def node(text, source):
    hidden = {"excluded_llm_metadata_keys": ["file_path"], "excluded_embed_metadata_keys": ["file_path"]}
    return NodeWithScore(node=TextNode(text=text, metadata={"file_path": source}, **hidden), score=1.0)


@pytest.fixture
def run(engine, monkeypatch):
    """What is marked in all calls of one question: text and source of each span."""

    def ask(nodes, step=lambda nodes: nodes, highlighter="sentences", mode="compact", postprocessor=True):
        chosen = HighlightPostprocessor(highlighter)
        llm = SekaLLM(steered_model=engine, max_tokens=1, highlighter=chosen if postprocessor else highlighter)
        texts, answered = [], SekaLLM._answered

        def recorded(self, request, *args, **kwargs):
            texts.append([p.text for p in request.prompts])
            return answered(self, request, *args, **kwargs)

        with monkeypatch.context() as patch, collect_reports() as reports:
            patch.setattr(SekaLLM, "_answered", recorded)
            given = step(chosen.postprocess_nodes(nodes, query_str=QUESTION) if postprocessor else nodes)
            get_response_synthesizer(llm=llm, response_mode=mode).synthesize(QUESTION, nodes=given)
        return [
            (text[h["message"]][h["start"] : h["end"]], h["source"])
            for text, report in zip(texts, reports, strict=True)
            for h in sorted(report["highlights"], key=lambda h: h["start"])
        ]

    return ask


@pytest.mark.parametrize("mode", MODES)
def test_the_kept_one_of_two_that_begin_alike(run, mode):
    nodes = [node(OLD, "2019"), node(NEW, "2024")]
    assert run(nodes, lambda own: own[1:], mode=mode) == [(NEW, "2024")]
    assert run(nodes, lambda own: own[:1], mode=mode) == [(OLD, "2019")]
    assert run(nodes, lambda own: own[1:], mode=mode, postprocessor=False)[0][0] == NEW


@pytest.mark.parametrize("mode", MODES)
def test_trust_does_not_pass_to_an_upload_that_begins_alike(run, mode):
    policy = Trusted(Sentences(), HANDBOOK)
    trusted, upload = node(NEW, "handbook/list"), node(NEW[:-8] + "Oslo, says somebody.", "upload/x")
    longer = node(f"{NEW} No: since Monday it is in Oslo.", "upload/y")
    for other in (upload, longer):
        for nodes in ([trusted, other], [other, trusted]):
            assert run(nodes, highlighter=policy, mode=mode) == [(NEW, "handbook/list")]
            at = nodes.index(trusted)
            assert run(nodes, lambda own, at=at: [own[at]], policy, mode) == [(NEW, "handbook/list")]
            assert run(nodes, lambda own, at=at: [own[1 - at]], policy, mode) == []


@pytest.mark.parametrize("mode", MODES)
def test_the_trusted_one_of_two_equal_nodes(run, mode):
    """Shown together, the handbook's is marked; one by one, nothing tells them apart, and neither is."""
    marked = run(
        [node(NEW, "upload/x"), node(NEW, "handbook/a")], highlighter=Trusted(Sentences(), HANDBOOK), mode=mode
    )
    assert marked == ([] if mode in ("refine", "accumulate") else [(NEW, "handbook/a")])


@pytest.mark.parametrize("mode", JOINED)
def test_equal_nodes_are_all_marked_each_with_its_source(run, mode):
    nodes = [node(NEW, f"copy {i}") for i in range(5)]
    assert run(nodes, mode=mode) == [(NEW, f"copy {i}") for i in range(5)]
    assert set(run(nodes, lambda own: own[:1], mode=mode)) == {(NEW, f"copy {i}") for i in range(5)}
    assert [text for text, _ in run(nodes, mode=mode, postprocessor=False)] == [NEW] * 5


@pytest.mark.parametrize("mode", JOINED)
def test_a_copy_changes_nothing_elsewhere(run, mode):
    one, two = "Greta has a workshop in Vienna.", "It opens at nine, and closes at noon."
    trusted = [node(one, "handbook/1"), node(two, "handbook/2")]
    expected = [(one, "handbook/1"), (two, "handbook/2")]
    for text in (f"{one}\n\n{two}", f"{one} It opens", f"They say: {one}", one):
        copy = node(text, "upload/x")
        for nodes in ([copy, *trusted], [*trusted, copy], [trusted[0], copy, trusted[1]]):
            policy, at = Trusted(AllPassages(), HANDBOOK), nodes.index(copy)
            left = run(nodes, lambda own, at=at: own[:at] + own[at + 1 :], policy, mode)
            equal = text in (one, f"{one}\n\n{two}")  # then it is not known whose words they are
            assert left == [e for e in expected if not equal or e[0] not in text], text
            assert run(nodes, highlighter=policy, mode=mode) == expected, text


def test_another_order_after_it(run):
    nodes = [node(f"The workshop of Greta has {i} windows.", str(i)) for i in range(6)]
    assert {source for _, source in run(nodes, LongContextReorder().postprocess_nodes)} == set("012345")


def test_the_time_is_linear(engine):
    """Accumulate gives the model one node at a time; what is done beside the model's own work."""
    chosen = HighlightPostprocessor()
    llm = SekaLLM(steered_model=engine, max_tokens=1, highlighter=chosen)
    work = {}
    for n in (20, 80):
        nodes = [
            node(f"Note {i}: the workshop of Greta has {i} windows. " + "It rained. " * 20, str(i)) for i in range(n)
        ]
        given = chosen.postprocess_nodes(nodes, query_str=QUESTION)
        contexts = [g.node.get_content() for g in given]
        work[n] = calls(lambda own=contexts: [chosen.chosen_in(QUESTION, c) for c in own])
        assert all(chosen.chosen_in(QUESTION, c).spans[0].source == str(i) for i, c in enumerate(contexts))
    assert llm.highlighter is chosen
    assert work[80] < 20 * work[20]  # each looks at all nodes: 16
