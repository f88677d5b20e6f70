"""A query engine filled in what it retrieved and nothing in it is highlighted: the user is told what to change."""

from __future__ import annotations

import warnings

import pytest
from llama_index.core import get_response_synthesizer
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.prompts import PromptTemplate, RichPromptTemplate
from llama_index.llms.seka import HighlightPostprocessor, SekaLLM, collect_reports

from seka_rag.errors import SteeringError
from seka_rag.frameworks import UnmarkedWarning
from seka_rag.frameworks.unmarked import forget_causes
from seka_rag.highlight.sentences import Sentences
from seka_rag.highlight.trust import Trusted, TrustPolicy

QUESTION = "Where did Astrid move to?"
EVIDENCE = "Astrid moved to Lyon last year."
TEMPLATE = PromptTemplate("{context_str}\n{query_str}")
VALUES = {"context_str": EVIDENCE, "query_str": QUESTION}
UPPER = PromptTemplate(
    "{context_str}\n{query_str}", function_mappings={"context_str": lambda context_str, **_: context_str.upper()}
)
LISTED = RichPromptTemplate("{% for c in context %}{{ c }} {% endfor %}{{ query_str }}")


@pytest.fixture(autouse=True)
def _nothing_told():
    forget_causes()
    yield
    forget_causes()


def predict(template=TEMPLATE, values=VALUES):
    return lambda llm: llm.predict(template, **values)


CAUSES = {
    "nothing fits": (predict(values={**VALUES, "query_str": "Who plays chess?"}), {}, "chose nothing"),
    "nobody is trusted": (
        predict(),
        {"highlighter": Trusted(Sentences(), TrustPolicy(sources=["handbook/*"]))},
        "look at its trust policy",
    ),
    "a template that changes its value": (predict(UPPER), {}, "changes the text of context_str"),
    "a list": (predict(LISTED, {"context": [EVIDENCE], "query_str": QUESTION}), {}, "is a list, not a text"),
    "lines that look like metadata": (
        predict(values={**VALUES, "context_str": f"note: {EVIDENCE}"}),
        {},
        "looks like a node's metadata",
    ),
    "another text than the postprocessor had": (
        predict(values={**VALUES, "context_str": "Astrid moved to Bergen, as nobody chose."}),
        {"highlighter": HighlightPostprocessor()},
        "not text of the nodes that its HighlightPostprocessor was given",
    ),
}


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("cause", CAUSES)
def test_told_once_in_the_report_and_an_error_if_asked(engine, caplog, cause, chat):
    ask, settings, reason = CAUSES[cause]
    llm = SekaLLM(steered_model=engine, max_tokens=1, is_chat_model=chat, **settings)
    with collect_reports() as reports:
        with pytest.warns(UnmarkedWarning, match=reason):
            ask(llm)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnmarkedWarning)
            ask(llm)  # told already
            ask(llm.model_copy(update={"on_unmarked": "ignore"}))
    assert len(reports) == 3
    assert all(any(reason in w for w in report["warnings"]) and report["highlights"] == [] for report in reports)
    assert len([r for r in caplog.records if r.name == "seka_rag"]) == 1
    with pytest.raises(SteeringError, match=reason):
        ask(llm.model_copy(update={"on_unmarked": "raise"}))


async def test_in_every_way_of_calling(either, index):
    strict = either.model_copy(update={"on_unmarked": "raise"})
    for streaming in (False, True):
        engine = index.as_query_engine(llm=strict, streaming=streaming)
        with pytest.raises(SteeringError):
            list(getattr(engine.query("Who plays chess?"), "response_gen", ()))
        with pytest.raises(SteeringError):
            response = await engine.aquery("Who plays chess?")
            [piece async for piece in response.async_response_gen()]


def test_nothing_is_told_where_nothing_is_wrong(either, index, scored):
    strict = either.model_copy(update={"on_unmarked": "raise"})
    index.as_query_engine(llm=strict).query(QUESTION)
    strict.complete(QUESTION)
    strict.predict(TEMPLATE, context_str=" ", query_str=QUESTION)
    for off in ({"highlight": "off"}, {"steering": None}, {"highlight": []}):
        strict.model_copy(update=off).predict(UPPER, **VALUES)


def test_the_second_level_of_a_summary_is_no_failure(engine, scored):
    chosen = HighlightPostprocessor()
    strict = SekaLLM(steered_model=engine, max_tokens=1, highlighter=chosen, on_unmarked="raise")
    nodes = chosen.postprocess_nodes(scored[:1], query_str=QUESTION)
    synthesizer = get_response_synthesizer(llm=strict, response_mode="tree_summarize")
    with collect_reports() as reports:
        answer = synthesizer.synthesize(QUESTION, nodes=nodes)
        synthesizer.get_response(QUESTION, [answer.response, answer.response])
    assert [len(report["highlights"]) for report in reports] == [1, 0]
    assert "not text of the nodes" in reports[1]["warnings"][0]


def test_tools(engine):
    call = ToolCallBlock(tool_call_id="c1", tool_name="notes", tool_kwargs={})
    output = ChatMessage("Nothing of interest.", role="tool", additional_kwargs={"tool_call_id": "c1"})
    messages = [ChatMessage(QUESTION), ChatMessage(role="assistant", blocks=[call]), output]
    strict = SekaLLM(steered_model=engine, max_tokens=1, on_unmarked="raise")
    strict.chat(messages)  # no tool is trusted: nothing was to be marked
    with pytest.raises(SteeringError, match="chose nothing"):
        strict.chat(messages, highlight_tools=["notes"])
