"""Every way in which LlamaIndex brings retrieved text to a model highlights the sentence that fits the question."""

from __future__ import annotations

import pytest
from llama_index.core import Settings, VectorStoreIndex, get_response_synthesizer
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.prompts import PromptTemplate, RichPromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode
from llama_index.llms.seka import SekaLLM, collect_reports
from llama_index.retrievers.bm25 import BM25Retriever

QUESTION = "Where did Astrid move to?"
EVIDENCE = "Astrid moved to Lyon last year."
MODES = ["compact", "refine", "tree_summarize", "simple_summarize", "accumulate", "compact_accumulate"]


def first_marks(texts: list[str]) -> list[str]:
    return [t.replace(" .", ".") for t in texts if t]


@pytest.mark.parametrize("mode", MODES)
def test_every_response_mode_highlights_the_evidence(either, index, marked, mode):
    engine = index.as_query_engine(llm=either, response_mode=mode)
    response = engine.query(QUESTION)
    assert str(response) != "Empty Response"
    assert first_marks(marked()) == [EVIDENCE]


@pytest.mark.parametrize("mode", MODES)
async def test_every_response_mode_asynchronously(either, index, marked, mode):
    await index.as_query_engine(llm=either, response_mode=mode).aquery(QUESTION)
    assert first_marks(marked()) == [EVIDENCE]


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize"])
def test_streaming(either, index, marked, mode):
    plain = str(index.as_query_engine(llm=either, response_mode=mode).query(QUESTION))
    response = index.as_query_engine(llm=either, response_mode=mode, streaming=True).query(QUESTION)
    assert "".join(response.response_gen) == plain
    assert first_marks(marked()) == [EVIDENCE, EVIDENCE]


@pytest.mark.parametrize("mode", ["compact", "tree_summarize"])
async def test_streaming_asynchronously(either, index, marked, mode):
    response = await index.as_query_engine(llm=either, response_mode=mode, streaming=True).aquery(QUESTION)
    pieces = [piece async for piece in response.async_response_gen()]
    assert pieces
    assert first_marks(marked()) == [EVIDENCE]


def test_no_text_asks_nothing(llm, index, seen, monkeypatch):
    monkeypatch.setattr(Settings, "_llm", llm)  # this mode ignores the model that it is given
    response = index.as_query_engine(llm=llm, response_mode="no_text").query(QUESTION)
    assert not seen
    assert len(response.source_nodes) == 2


def test_refine_highlights_the_context_but_not_the_earlier_answer(llm, scored, marked):
    synthesizer = get_response_synthesizer(llm=llm, response_mode="refine")
    synthesizer.synthesize("Who works as a baker?", nodes=scored)
    assert first_marks(marked()) == ["Boris works as a baker."]


def test_bm25_query_engine(llm, nodes, marked):
    retriever = BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=2, tokenizer=str.split)
    RetrieverQueryEngine.from_args(retriever, llm=llm).query(QUESTION)
    assert first_marks(marked()) == [EVIDENCE]


def test_context_chat_engines(llm, index, marked):
    for kind in (ContextChatEngine, CondensePlusContextChatEngine):
        chat_engine = kind.from_defaults(retriever=index.as_retriever(), llm=llm)
        chat_engine.chat(QUESTION)
        "".join(chat_engine.stream_chat(QUESTION).response_gen)
    assert first_marks(marked()) == [EVIDENCE] * 4


def test_the_report_comes_through_a_query_engine(llm, index):
    with collect_reports() as reports:
        index.as_query_engine(llm=llm).query(QUESTION)
    (report,) = reports
    assert report["method"] == "Seka"
    assert report["tokens_edited"] == report["tokens_marked"] == 7
    (span,) = report["highlights"]
    assert span["source"] == "astrid.txt"
    assert span["weight"] == 1.0
    assert span["end"] - span["start"] == len(EVIDENCE)
    assert "Lyon" not in str(report)


def test_collections_of_reports_can_be_nested(llm):
    with collect_reports() as outer:
        with collect_reports() as inner:
            llm.complete("Ada")
        llm.complete("Boris")
    llm.complete("Carl")
    assert (len(inner), len(outer)) == (1, 2)
    assert outer[0] is inner[0]


def test_metadata_lines_are_never_highlighted(llm, seen, engine):
    node = TextNode(text="The market is old.", metadata={"file_path": "Astrid moved to Oslo", "note": "Astrid moved."})
    for mode in MODES:
        VectorStoreIndex([node]).as_query_engine(llm=llm, response_mode=mode).query(QUESTION)
    assert len(seen) == len(MODES)
    assert all(max(p.weights) == 0 for p in seen)


def test_off_switches(engine, index, seen):
    for off in ({"highlight": "off"}, {"steering": None}, {"highlight": []}):
        index.as_query_engine(llm=SekaLLM(steered_model=engine, max_tokens=1, **off)).query(QUESTION)
    assert len(seen) == 3
    assert all(max(p.weights) == 0 for p in seen)
    with pytest.raises(ValueError, match="use highlight='off'"):
        SekaLLM(steered_model=engine, highlighter="off")


def test_a_highlighter_of_ones_own(engine, index, marked):
    llm = SekaLLM(steered_model=engine, max_tokens=1, highlighter="all")
    index.as_query_engine(llm=llm).query(QUESTION)
    (text,) = marked()
    assert "Astrid moved to Lyon" in text
    assert "Boris works as a baker" in text
    assert "txt" not in text


@pytest.mark.parametrize(
    "template",
    [
        PromptTemplate("{context}\n{question} {context}", template_var_mappings=None),
        RichPromptTemplate("{{ context }}\n\nQ: {{ question }} {{ context }}"),
        RichPromptTemplate(
            '{% chat role="system" %}{{ context }}{% endchat %}'
            '{% chat role="user" %}{{ question }} {{ context }}{% endchat %}'
        ),
    ],
)
def test_templates_of_ones_own(either, marked, template):
    either.predict(template, context="Boris is old.\n\n" + EVIDENCE, question=QUESTION)
    assert first_marks(marked()) == [f"{EVIDENCE} {EVIDENCE}"]


def test_lists_of_texts_are_joined_and_not_shown_as_python(either, engine, seen, marked):
    value = ["Boris is old.\nHe has a cat.", EVIDENCE]
    with collect_reports() as reports:
        either.predict(PromptTemplate("{context_str}\n{query_str}"), context_str=value, query_str=QUESTION)
        either.predict(
            RichPromptTemplate("{% for c in context %}{{ c }}\n{% endfor %}{{ question }}"),
            context=value,
            question=QUESTION,
        )
    assert first_marks(marked()) == [EVIDENCE]
    assert "[" not in engine.tokenizer.decode(seen[0].ids)
    assert ["context is a list" in str(r["warnings"]) for r in reports] == [False, True]


def test_a_variable_of_another_name(engine, marked):
    template = PromptTemplate("{notes} {query_str}")
    SekaLLM(steered_model=engine, max_tokens=1).predict(template, notes=EVIDENCE, query_str=QUESTION)
    own = SekaLLM(steered_model=engine, max_tokens=1, context_variables=["notes"])
    own.predict(template, notes=EVIDENCE, query_str=QUESTION)
    assert [t.replace(" .", ".") for t in marked()] == ["", EVIDENCE]


@pytest.mark.parametrize(
    "change",
    [
        lambda context_str, **_: context_str.upper(),
        lambda context_str, **_: context_str.split("Astrid")[1],  # fails with a nonce
    ],
)
def test_a_template_that_changes_the_context_is_not_followed_and_says_so(either, change):
    template = PromptTemplate("{context_str} {query_str}", function_mappings={"context_str": change})
    with collect_reports() as reports:
        either.predict(template, context_str=EVIDENCE, query_str=QUESTION)
    (report,) = reports
    assert report["highlights"] == []
    assert any("changes the text of context_str" in w for w in report["warnings"])
