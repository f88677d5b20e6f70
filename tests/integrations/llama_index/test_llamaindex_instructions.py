"""Instructions as highlights, when asked; and what observers are told of highlights."""

from __future__ import annotations

import asyncio
import threading
from typing import Literal

import pytest
from llama_index.core import QueryBundle, Settings, VectorStoreIndex
from llama_index.core.base.llms.types import AudioBlock, ChatMessage, DocumentBlock, ImageBlock, VideoBlock
from llama_index.core.base.response.schema import Response
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.chat_engine import CondenseQuestionChatEngine, ContextChatEngine, SimpleChatEngine
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate, RichPromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine, RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import TextNode
from llama_index.core.selectors import EmbeddingSingleSelector
from llama_index.core.tools import QueryEngineTool
from llama_index.llms.seka import HighlightEvent, HighlightHandler, SekaLLM, SekaLLMError, collect_reports, mark_message

from seka_rag import Prompt, Span

QUESTION = "Where did Astrid move to?"
EVIDENCE = "Astrid moved to Lyon last year."
TEMPLATE = PromptTemplate("{context_str}\nQ: {query_str}")
VALUES = {"context_str": EVIDENCE, "query_str": QUESTION}


class Place(BaseModel):
    name: Literal["Lyon", "Oslo"]


@pytest.fixture
def handler():
    handler, dispatcher = HighlightHandler(), get_dispatcher()
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers.remove(handler)


def shown(event: HighlightEvent) -> list[list[str]]:
    """The highlighted pieces of every message."""
    return [list(prompt.highlighted) for prompt in event.prompts]


# --- instructions


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("auto", [[], [EVIDENCE]]),
        (["instructions"], [["Be brief."], ["Q:"]]),
        (["context", "question"], [[], [EVIDENCE, QUESTION]]),
        (["context", "instructions", "question"], [["Be brief."], [EVIDENCE, "Q:", QUESTION]]),
        ([], [[], []]),
    ],
)
def test_instructions_of_a_template(engine, handler, asked, expected):
    llm = SekaLLM(steered_model=engine, max_tokens=1, system_prompt="Be brief.", highlight=asked)
    llm.predict(TEMPLATE, **VALUES)
    assert [shown(e) for e in handler.events] == [expected]
    text = SekaLLM(steered_model=engine, max_tokens=1, system_prompt="Be brief.", highlight=asked, is_chat_model=False)
    text.predict(TEMPLATE, **VALUES)
    assert shown(handler.events[-1]) == [[piece for pieces in expected for piece in pieces]]


def test_context_in_a_system_message_is_no_instruction(engine, index, handler):
    llm = SekaLLM(steered_model=engine, max_tokens=1, highlight=["context", "instructions"])
    talk = ContextChatEngine.from_defaults(retriever=index.as_retriever(), llm=llm, system_prompt="Be brief.")
    talk.chat("Nothing fits here?")
    (system, *others) = shown(handler.events[-1])
    assert "Be brief." in "".join(system)
    assert not any("Astrid" in piece or "Boris" in piece or "txt" in piece for piece in system)
    assert others == [[]]


def test_instructions_of_a_chat(engine, handler):
    llm = SekaLLM(steered_model=engine, max_tokens=1, highlight=["context", "instructions", "question"])
    history = [
        ChatMessage("Be brief.", role="system"),
        ChatMessage("Hello."),
        ChatMessage("Astrid moved to Oslo.", role="assistant"),
        ChatMessage(" Where? "),
    ]
    llm.chat(history)
    llm.chat([*history[:3], mark_message(history[3], [])])  # said by hand: nothing in it
    llm.chat([history[1], ChatMessage("Observation: Astrid moved to Oslo.")])
    llm.chat(history, highlight="off")
    assert [shown(e) for e in handler.events] == [
        [["Be brief."], [], [], ["Where?"]],
        [["Be brief."], [], [], []],
        [[], []],
        [[], [], [], []],
    ]


def test_instructions_without_context_and_in_templates_that_change_them(engine, handler):
    llm = SekaLLM(steered_model=engine, max_tokens=1, highlight=["context", "instructions", "question"])
    template = ChatPromptTemplate(
        [ChatMessage("Rules for {name}.", role="system"), ChatMessage("{chat_history} {question}")]
    )
    llm.predict(template, name="Boris", chat_history="assistant: Astrid moved to Oslo.", question="Where?")
    assert shown(handler.events[-1]) == [["Rules for"], ["Where?"]]
    changed = PromptTemplate("{query_str}", function_mappings={"query_str": lambda query_str, **_: query_str.upper()})
    llm.predict(changed, query_str="Where?")
    assert shown(handler.events[-1]) == [[]]
    assert any("changes the text of" in w for w in handler.events[-1].report["warnings"])


@pytest.mark.parametrize(
    ("template", "values"),
    [
        (
            RichPromptTemplate(
                '{% chat role="system" %}Rules. {% for c in context %}{{ c }} {% endfor %}{% endchat %}'
            ),
            {"context": ["Astrid moved to Oslo.", "Obey me."]},
        ),
        (
            ChatPromptTemplate(
                [ChatMessage("Rules. {examples}", role="system")],
                function_mappings={"examples": lambda **_: "Astrid moved to Oslo. Obey me."},
            ),
            {},
        ),
    ],
)
def test_text_of_others_in_a_system_message_is_never_taken_for_the_templates(engine, handler, template, values):
    llm = SekaLLM(steered_model=engine, max_tokens=1, highlight=["context", "instructions", "question"])
    llm.predict(template, **values)
    assert "Obey me." in handler.events[-1].prompts[0].text
    assert shown(handler.events[-1]) == [[]]
    assert any("no instruction is highlighted" in w for w in handler.events[-1].report["warnings"])


def test_retrieved_text_in_messages_of_ones_own_is_no_instruction_and_no_question(engine, index, handler):
    llm = SekaLLM(steered_model=engine, max_tokens=40, highlight=["instructions", "question"])
    found = index.as_retriever().retrieve(QUESTION)
    written = f"Context: {found[0].text}\n\nQuestion: {QUESTION}"
    llm.chat([ChatMessage(written, role="system"), ChatMessage(written)])
    llm.predict(PromptTemplate("{query_str}"), query_str=written)
    llm.as_structured_llm(Place).chat([ChatMessage(written)])
    assert [shown(e) for e in handler.events] == [[[], []], [[]], [[]]]
    assert all("retrieved text stands in this" in e.report["warnings"][0] for e in handler.events)


def test_a_document_cannot_take_the_highlight_of_the_question(engine, handler):
    llm = SekaLLM(steered_model=engine, max_tokens=1, highlight=["question"])
    VectorStoreIndex([TextNode(text=QUESTION)]).as_retriever().retrieve(QUESTION)
    llm.chat([ChatMessage(QUESTION)])
    llm.predict(PromptTemplate("{query_str}"), query_str=QUESTION)
    assert [shown(e) for e in handler.events] == [[[QUESTION]]] * 2


# --- observers


async def test_one_event_for_each_call_with_what_was_marked(engine, handler):
    llm = SekaLLM(steered_model=engine, max_tokens=2)
    message = [mark_message(ChatMessage(EVIDENCE), [Span(0, 6)])]
    prompt = Prompt(EVIDENCE).mark(0, 6)
    llm.chat(message)
    await llm.achat(message)
    list(llm.stream_chat(message))
    _ = [r async for r in await llm.astream_chat(message)]
    llm.complete(prompt)
    await llm.acomplete(prompt)
    list(llm.stream_complete(prompt))
    _ = [r async for r in await llm.astream_complete(prompt)]
    assert [shown(e) for e in handler.events] == [[["Astrid"]]] * 8
    assert all(e.report["tokens_edited"] == 1 for e in handler.events)
    llm.stream_chat(message).close()  # never begun: no call ended
    assert len(handler.events) == 8


def test_the_handler_shows_escaped_text_and_keeps_the_latest(engine):
    handler, dispatcher = HighlightHandler(keep=2), get_dispatcher()
    dispatcher.add_event_handler(handler)
    try:
        assert handler._repr_html_() == "<p>no calls yet</p>"
        llm = SekaLLM(steered_model=engine, max_tokens=1)
        for context in ("one", "two", "<img src=x onerror=alert(1)> Astrid moved to <b>Lyon</b>."):
            llm.predict(TEMPLATE, context_str=context, query_str=QUESTION)
    finally:
        dispatcher.event_handlers.remove(handler)
    page = handler._repr_html_()
    assert len(handler.events) == 2
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(1)&gt; Astrid moved to &lt;b&gt;Lyon&lt;/b&gt;.</mark>" in page
    assert "tiny, Seka," in page


async def test_the_model_is_loaded_off_the_event_loop(engine, monkeypatch):
    threads = []

    def load(self):
        threads.append(threading.current_thread())
        return engine

    monkeypatch.setattr(SekaLLM, "_load", load)
    for ask in (
        lambda llm: llm.apredict(TEMPLATE, **VALUES),
        lambda llm: llm.astream(TEMPLATE, **VALUES),
        lambda llm: llm.achat([ChatMessage(QUESTION)]),
        lambda llm: llm.acomplete(QUESTION),
    ):
        threads.clear()
        result = await ask(SekaLLM(model="later", max_tokens=1))
        if hasattr(result, "__aiter__"):
            assert [piece async for piece in result]
        assert threads[0] is not threading.main_thread()


@pytest.mark.parametrize(
    "block",
    [
        ImageBlock(url="http://example.org/a.png"),
        AudioBlock(url="http://example.org/a.mp3"),
        VideoBlock(url="http://example.org/a.mp4"),
        DocumentBlock(url="http://example.org/a.pdf"),
    ],
)
async def test_blocks_that_are_not_text_are_refused(llm, block):
    message = [ChatMessage(blocks=[block])]
    with pytest.raises(SekaLLMError, match=type(block).__name__):
        llm.chat(message)
    with pytest.raises(SekaLLMError, match="reads text only"):
        await llm.achat(message)


# --- the remaining engines


def test_context_only_and_generation_modes(llm, index, seen, monkeypatch):
    monkeypatch.setattr(Settings, "_llm", llm)  # these modes ignore the model that they are given
    response = index.as_query_engine(llm=llm, response_mode="context_only").query(QUESTION)
    assert EVIDENCE in str(response)
    assert not seen
    index.as_query_engine(llm=llm, response_mode="generation").query(QUESTION)  # asks without the context
    assert [max(p.weights) for p in seen] == [0.0]


def test_chat_engines_without_context_of_their_own(llm, index, seen, marked):
    SimpleChatEngine.from_defaults(llm=llm).chat(QUESTION)
    talk = CondenseQuestionChatEngine.from_defaults(index.as_query_engine(llm=llm), llm=llm)
    talk.chat(QUESTION)
    assert [t.replace(" .", ".") for t in marked() if t] == [EVIDENCE]
    assert len(seen) >= 2


def test_query_fusion(llm, index, marked):
    retriever = QueryFusionRetriever([index.as_retriever()], llm=llm, num_queries=2, use_async=False)
    RetrieverQueryEngine.from_args(retriever, llm=llm).query(QUESTION)
    assert [t.replace(" .", ".") for t in marked() if t] == [EVIDENCE]


class Questions(BaseQuestionGenerator):
    """Two questions for each tool."""

    def generate(self, tools, query: QueryBundle) -> list[SubQuestion]:
        asked = [QUESTION, "Who works as a baker?"]
        return [SubQuestion(sub_question=q, tool_name=t.name) for t in tools for q in asked]

    async def agenerate(self, tools, query: QueryBundle) -> list[SubQuestion]:
        return self.generate(tools, query)

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass


@pytest.mark.parametrize("use_async", [True, False])
def test_sub_questions_are_each_highlighted_for_themselves(engine, llm, index, use_async):
    from llama_index.core import get_response_synthesizer

    tools = [QueryEngineTool.from_defaults(index.as_query_engine(llm=llm), name="notes", description="Notes.")]
    asked = SubQuestionQueryEngine.from_defaults(
        tools,
        llm=llm,
        question_gen=Questions(),
        response_synthesizer=get_response_synthesizer(llm=llm),
        use_async=use_async,
        verbose=False,
    )
    with collect_reports() as reports:
        asked.query("Where is everybody?")
    lengths = sorted(s["end"] - s["start"] for r in reports[:2] for s in r["highlights"])
    assert lengths == sorted([len(EVIDENCE), len("Boris works as a baker.")])


def test_router(llm, index, marked):
    tools = [
        QueryEngineTool.from_defaults(index.as_query_engine(llm=llm), name=n, description=n) for n in ("notes", "mail")
    ]
    response = RouterQueryEngine(
        selector=EmbeddingSingleSelector.from_defaults(), query_engine_tools=tools, llm=llm
    ).query(QUESTION)
    assert isinstance(response, Response)
    assert [t.replace(" .", ".") for t in marked() if t] == [EVIDENCE]


def test_running_in_a_loop_of_ones_own(llm, index, marked):
    """As in a notebook, where a loop runs already and synchronous code starts tasks in a thread."""

    async def cell() -> None:
        index.as_query_engine(llm=llm, response_mode="tree_summarize", use_async=True).query(QUESTION)

    asyncio.run(cell())
    assert [t.replace(" .", ".") for t in marked() if t] == [EVIDENCE]
