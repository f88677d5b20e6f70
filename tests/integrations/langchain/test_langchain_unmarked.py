"""A chain retrieved something and nothing in it is highlighted: the user is told what to change."""

from __future__ import annotations

import warnings

import pytest
from langchain_chains import TEMPLATE, Facts, ask, documents, join, own_sources, rag, sources
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_seka import SekaCallbackHandler

from seka_rag.errors import SteeringError
from seka_rag.frameworks import UnmarkedWarning
from seka_rag.frameworks.unmarked import forget_causes
from seka_rag.highlight.select import AllPassages
from seka_rag.highlight.trust import Trusted, TrustPolicy


@pytest.fixture(autouse=True)
def _nothing_told():
    forget_causes()
    yield
    forget_causes()


def dated():
    return ChatPromptTemplate.from_messages([("human", "{date} {context} {question}")]).partial(date=lambda: "Monday")


def escaping():
    return ChatPromptTemplate.from_messages([("human", "{{context}} <{{question}}>")], template_format="mustache")


CAUSES = {
    "no template": (
        lambda chat: Facts() | RunnableLambda(lambda d: join(d)) | chat,
        "no template of LangChain is known",
    ),
    "a template that cannot be rebuilt": (lambda chat: rag(chat, dated()), "could not be followed"),
    "rewritten on the way": (
        lambda chat: {"context": Facts() | join | str.upper, "question": RunnablePassthrough()} | TEMPLATE | chat,
        r"does not stand unchanged in any variable of the template \(context, question\)",
    ),
    "a template that changes its value": (
        lambda chat: (
            {"context": Facts() | join | (lambda text: f"{text} <b>"), "question": RunnablePassthrough()}
            | escaping()
            | chat
        ),
        "changes what it is given for context",
    ),
    "nothing fits": (lambda chat: rag(chat.bind(highlighter=lambda q, ps: [() for _ in ps])), "chose nothing"),
    "nobody is trusted": (
        lambda chat: rag(chat.bind(highlighter=Trusted(AllPassages(), TrustPolicy(sources=["handbook/*"])))),
        "look at its trust policy",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_told_once_in_the_report_and_an_error_if_asked(chat, caplog, cause):
    make, reason = CAUSES[cause]
    with pytest.warns(UnmarkedWarning, match=reason):
        answer = make(chat).invoke(ask("Astrid"))
    assert sources(answer) == set()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnmarkedWarning)
        again = make(chat).invoke(ask("Astrid"))  # told already
        ignored = make(chat.model_copy(update={"on_unmarked": "ignore"})).invoke(ask("Astrid"))
    for own in (answer, again, ignored):
        assert any(w for w in own.response_metadata["seka"]["warnings"] if reason.replace("\\", "")[:20] in w)
    assert len([r for r in caplog.records if r.name == "seka_rag"]) == 1
    with pytest.raises(SteeringError, match=reason):
        make(chat.model_copy(update={"on_unmarked": "raise"})).invoke(ask("Astrid"))


async def test_in_every_way_of_calling(chat, llm):
    plain = PromptTemplate.from_template("{context} {question}")
    for model, prompt in ((chat, TEMPLATE), (llm, plain)):
        chain = {"context": Facts() | join | str.upper, "question": RunnablePassthrough()} | prompt
        strict = chain | model.bind(on_unmarked="raise")
        for call in (strict.invoke, lambda q, strict=strict: list(strict.stream(q))):
            with pytest.raises(SteeringError, match="could not be followed"):
                call(ask("Astrid"))
        with pytest.raises(SteeringError):
            await strict.ainvoke(ask("Astrid"))
        with pytest.raises(SteeringError):
            [chunk async for chunk in strict.astream(ask("Astrid"))]
        with pytest.raises(SteeringError):
            (chain | model).invoke(ask("Astrid"), {"callbacks": [SekaCallbackHandler(on_unmarked="raise")]})


def test_nothing_is_told_where_nothing_is_wrong(chat):
    strict = chat.model_copy(update={"on_unmarked": "raise", "highlighter": "all"})

    class Nothing(Facts):
        def _get_relevant_documents(self, query, *, run_manager):
            return []

    assert sources(rag(strict).invoke(ask("Astrid"))) == own_sources(ask("Astrid"))
    assert (
        "found no passage"
        in rag(strict, retriever=Nothing()).invoke(ask("Astrid")).response_metadata["seka"]["warnings"][0]
    )
    upper = {"context": Facts() | join | str.upper, "question": RunnablePassthrough()} | TEMPLATE
    for off in ({"highlight": "off"}, {"steering": None}, {"highlight": ["question"]}):
        (upper | strict.bind(**off)).invoke(ask("Astrid"))
    strict.invoke("Where does Astrid live?")


def conversation(name, content, artifact):
    call = {"name": name, "args": {}, "id": "1"}
    answer = ToolMessage(content, artifact=artifact, tool_call_id="1", name=name)
    return [HumanMessage(ask("Astrid")), AIMessage("", tool_calls=[call]), answer]


@pytest.mark.parametrize(
    ("artifact", "rewrite", "reason"),
    [
        (None, str, "'search' returned no documents as its artifact"),
        (documents(ask("Astrid")), str.upper, "do not stand unchanged in the text"),
    ],
)
def test_tools(chat, artifact, rewrite, reason):
    messages = conversation("search", rewrite(join(documents(ask("Astrid")))), artifact)
    with pytest.raises(SteeringError, match=reason):
        chat.invoke(messages, highlight_tools=["search"], on_unmarked="raise")
    chat.invoke(messages, on_unmarked="raise")  # no tool is trusted: nothing was to be marked


def test_a_tool_that_is_misspelled(chat):
    messages = conversation("search", join(documents(ask("Astrid"))), documents(ask("Astrid")))
    tools = [{"type": "function", "function": {"name": "search", "description": "", "parameters": {}}}]
    with pytest.raises(SteeringError, match=r"highlight_tools names 'serach', and the tools are 'search'"):
        chat.invoke(messages, tools=tools, highlight_tools=["serach"], on_unmarked="raise", tool_choice="none")
