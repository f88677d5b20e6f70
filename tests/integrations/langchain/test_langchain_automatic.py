"""Highlights that nobody asked for in code: a retriever, a prompt template and the model, in every way chains run."""

from __future__ import annotations

import asyncio
import gc

import pytest
from langchain_chains import TEMPLATE, Facts, ask, documents, join, own_sources, questions, rag, sources
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_seka.capture import CAPTURE
from patience import until_true

from seka_rag import Span

N = 50
v3 = pytest.mark.skipif(not hasattr(BaseChatModel, "stream_events"), reason="an older langchain-core")


def whole(chunks) -> AIMessageChunk:
    message = chunks[0]
    for chunk in chunks[1:]:
        message = message + chunk
    return message


def all_own(asked, messages) -> None:
    """0 foreign, 0 missing."""
    assert [sources(m) for m in messages] == [own_sources(q) for q in asked]
    for m in messages:
        report = m.response_metadata["seka"]
        assert report["tokens_edited"] == report["tokens_marked"] > 0


class TestShapes:
    """Calls that share a root or a thread. For many chains at once see test_langchain_concurrency.py."""

    @pytest.fixture
    def chain(self, chat):
        chat.highlighter = "all"
        return rag(chat)

    def test_invoke(self, chain):
        asked = questions(3)
        all_own(asked, [chain.invoke(q) for q in asked])

    def test_the_same_documents_for_other_questions(self, chat):
        """Each chain of one root asks the highlighter its own question, though all retrieved the same."""

        class Same(Facts):
            def _get_relevant_documents(self, query, *, run_manager):
                return documents(ask("Astrid"))

        asked = questions(N)
        chat.highlighter = lambda question, passages: [(Span(0, 1, asked.index(question) + 1),) for _ in passages]
        got = rag(chat, retriever=Same()).map().invoke(asked)
        weights = [{h["weight"] for h in m.response_metadata["seka"]["highlights"]} for m in got]
        assert weights == [{i + 1} for i in range(N)]

    def test_one_after_the_other_in_a_step(self, chain):
        asked = questions(3)
        all_own(asked, RunnableLambda(lambda qs: [chain.invoke(q) for q in qs]).invoke(asked))

    def test_two_prompts_of_one_root(self, chat, chain):
        """A question is first rewritten by the same model, before anything is retrieved."""
        rewrite = ChatPromptTemplate.from_messages([("human", "Rewrite: {question}")]) | chat
        seen: list[AIMessage] = []
        both = RunnableLambda(lambda q: (seen.append(rewrite.invoke({"question": q})), q)[1]) | chain
        answer = both.invoke(ask("Astrid"))
        assert sources(seen[0]) == set()
        assert seen[0].response_metadata["seka"]["warnings"] == []
        all_own([ask("Astrid")], [answer])

    def test_a_call_beside_the_chain_gets_nothing(self, chat, chain):
        chain.invoke(ask("Astrid"))
        assert sources(chat.invoke(ask("Astrid"))) == set()

    @v3
    def test_events_v3(self, chat, chain):
        """The newer streaming protocol, of the model inside a step."""
        seen = []

        def call(prompt):
            stream = chat.stream_events(prompt, version="v3")
            list(stream)
            seen.append(stream.output)
            return seen[0]

        (rag(RunnableLambda(call))).invoke(ask("Astrid"))
        all_own([ask("Astrid")], seen)

    @v3
    async def test_aevents_v3(self, chat, chain):
        seen = []

        async def call(prompt):
            stream = await chat.astream_events(prompt, version="v3")
            async for _ in stream:
                pass
            seen.append(await stream.output)
            return seen[0]

        await rag(RunnableLambda(call)).ainvoke(ask("Astrid"))
        all_own([ask("Astrid")], seen)


class TestEndings:
    """The handler forgets, whatever becomes of a chain (checked after each test)."""

    def test_abandoned_stream(self, chat):
        for q in questions(20):
            for _ in rag(chat).stream(q):
                break
        gc.collect()
        assert CAPTURE.held == 0

    async def test_abandoned_astream(self, chat):
        async def one(q):
            async for _ in rag(chat).astream(q):
                break

        await asyncio.gather(*(one(q) for q in questions(20)))
        gc.collect()
        await until_true(lambda: CAPTURE.held == 0)

    async def test_cancelled_tasks(self, chat):
        chat.max_tokens = 200
        tasks = [asyncio.create_task(rag(chat).ainvoke(q)) for q in questions(10)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert any(isinstance(r, asyncio.CancelledError) for r in results)
        await until_true(lambda: CAPTURE.held == 0)

    @pytest.mark.parametrize("where", ["retriever", "prompt", "model"])
    def test_failures(self, chat, where):
        chain = {
            "retriever": RunnableLambda(lambda q: Facts().invoke(7)) | chat,
            "prompt": Facts() | RunnableLambda(lambda docs: {}) | TEMPLATE | chat,
            "model": rag(chat).with_config() | RunnableLambda(lambda m: 1 / 0),
        }[where]
        with pytest.raises(Exception):
            chain.invoke(ask("Astrid"))
        assert CAPTURE.held == 0

    def test_trees_without_an_end_are_bounded(self, monkeypatch):
        from uuid import uuid4

        from langchain_seka import capture

        monkeypatch.setattr(capture, "_MOST_TREES", 3)
        own = capture.Capture()
        for _ in range(10):
            root = uuid4()
            own.on_chain_start({}, {}, run_id=root)
            own.on_retriever_start({}, "q", run_id=uuid4(), parent_run_id=root)
        assert own.held == 6

    def test_a_parent_nobody_told_of_is_a_root(self):
        from uuid import uuid4

        from langchain_seka.capture import Capture

        own, run = Capture(), uuid4()
        own.on_chain_start({}, {}, run_id=run, parent_run_id=uuid4())
        own.on_chain_end({}, run_id=run)
        assert own.held == 0


class TestPrompts:
    """Ways in which passages get into a prompt."""

    @pytest.fixture(autouse=True)
    def _mark_all(self, chat):
        chat.highlighter = "all"

    @pytest.mark.parametrize(
        "prompt",
        [
            ChatPromptTemplate.from_messages([("system", "Use this: {context}"), ("human", "{question}")]),
            ChatPromptTemplate.from_messages([("human", "{question}\n\n{context}\n\n{question}")]),
            ChatPromptTemplate.from_messages([("human", "{context}"), ("ai", "Yes?"), ("human", "{context}?")]),
            ChatPromptTemplate.from_messages([("human", "{{context}} {{question}}")], template_format="mustache"),
            ChatPromptTemplate.from_messages([("human", "{{ context }} {{ question }}")], template_format="jinja2"),
            ChatPromptTemplate.from_messages(
                [("human", [{"type": "text", "text": "{context}"}, {"type": "text", "text": "{question}"}])]
            ),
            ChatPromptTemplate.from_messages([("human", "{style}: {context} {question}")]).partial(style="Short"),
            ChatPromptTemplate.from_messages([("human", "{context}\n{question}"), ("ai", "It is")]),
            PromptTemplate.from_template("{context}\n{question}"),
        ],
    )
    def test_templates(self, chat, prompt):
        seen = []
        model = RunnableLambda(lambda p: (seen.extend(p.to_messages()), p)[1]) | chat
        answer = rag(model, prompt).invoke(ask("Astrid"))
        assert sources(answer) == own_sources(ask("Astrid"))
        wanted = {d.page_content for d in documents(ask("Astrid"))}
        report = answer.response_metadata["seka"]["highlights"]
        assert {seen[h["message"]].text[h["start"] : h["end"]] for h in report} == wanted

    def test_a_retriever_of_retrievers(self, chat):
        """What the outer one returns counts, with the question that it was asked."""

        class Outer(Facts):
            def _get_relevant_documents(self, query, *, run_manager):
                inner = Facts().invoke("Tell of " + query, {"callbacks": run_manager.get_child()})
                return inner[:1]

        asked = []

        def mark(question, passages):
            asked.append(question)
            return [(Span(0, 1, 1.0, p.source),) for p in passages]

        chat.highlighter = mark
        both = RunnableLambda(lambda q: join(Outer().invoke(q) + documents(q)[1:]))
        answer = ({"context": both, "question": RunnablePassthrough()} | TEMPLATE | chat).invoke(ask("Astrid"))
        assert asked == [ask("Astrid")]
        assert sources(answer) == {"Astrid/1"}

    def test_history(self, chat):
        prompt = ChatPromptTemplate.from_messages(
            [("system", "Context: {context}"), MessagesPlaceholder("history"), ("human", "{question}")]
        )
        chain = (
            RunnablePassthrough.assign(context=RunnableLambda(lambda x: x["question"]) | Facts() | join) | prompt | chat
        )
        answer = chain.invoke({"question": ask("Astrid"), "history": [("human", "Hello"), ("ai", "Hi")]})
        assert sources(answer) == own_sources(ask("Astrid"))

    @pytest.mark.parametrize(
        "join",
        [
            lambda docs: " ".join(d.page_content for d in docs),
            lambda docs: "\n".join(f"[{i}] {d.page_content}\n    (source: {d.metadata})" for i, d in enumerate(docs)),
            lambda docs: "\n".join(f"<doc>\n{d.page_content.replace(' ', '  ')}\n</doc>" for d in reversed(docs)),
            lambda docs: docs,  # nobody formats them
            lambda docs: "-".join(d.page_content for d in docs * 2),
        ],
    )
    def test_formats(self, chat, join):
        chain = {"context": Facts() | RunnableLambda(join), "question": RunnablePassthrough()} | TEMPLATE | chat
        assert sources(chain.invoke(ask("Astrid"))) == own_sources(ask("Astrid"))

    def test_documents_beside_their_text(self, chat):
        """The common form that returns the documents with the answer."""
        chain = RunnableParallel({"docs": Facts(), "question": RunnablePassthrough()}) | RunnablePassthrough.assign(
            answer=RunnablePassthrough.assign(context=lambda x: join(x["docs"])) | TEMPLATE | chat
        )
        assert sources(chain.invoke(ask("Astrid"))["answer"]) == own_sources(ask("Astrid"))

    def test_ready_made_chain(self, chat):
        from langchain_classic.chains import create_retrieval_chain
        from langchain_classic.chains.combine_documents import create_stuff_documents_chain

        prompt = ChatPromptTemplate.from_messages([("system", "{context}"), ("human", "{input}")])
        seen = []
        model = chat | RunnableLambda(lambda m: (seen.append(m), m)[1])
        create_retrieval_chain(Facts(), create_stuff_documents_chain(model, prompt)).invoke({"input": ask("Astrid")})
        assert sources(seen[0]) == own_sources(ask("Astrid"))

    def test_what_cannot_be_followed_is_left_alone(self, chat):
        hand_made = Facts() | RunnableLambda(lambda docs: "Context: " + join(docs)) | chat
        upper = {"context": Facts() | join | str.upper, "question": RunnablePassthrough()} | TEMPLATE | chat
        date = ChatPromptTemplate.from_messages([("human", "{date} {context} {question}")]).partial(
            date=lambda: "Monday"
        )
        for chain in (hand_made, upper, rag(chat, date)):
            answer = chain.invoke(ask("Astrid"))
            assert sources(answer) == set()
            assert "could not be followed" in answer.response_metadata["seka"]["warnings"][0]

    def test_default_highlighter_marks_the_telling_sentence(self, engine):
        from langchain_seka import ChatSeka

        chat = ChatSeka(steered_model=engine, max_tokens=1)
        seen = []
        chain = rag(RunnableLambda(lambda p: (seen.extend(p.to_messages()), p)[1]) | chat)
        report = chain.invoke(ask("Astrid")).response_metadata["seka"]["highlights"]
        assert report
        assert all("Astrid" in seen[h["message"]].text[h["start"] : h["end"]] for h in report)

    def test_highlighter_gets_the_query_and_the_passages(self, chat):
        asked = []

        def nothing(question, passages):
            asked.append((question, [p.source for p in passages]))
            return [() for _ in passages]

        chat.highlighter = nothing
        answer = rag(chat).invoke(ask("Astrid"))
        assert asked == [(ask("Astrid"), ["Astrid/1", "Astrid/2"])]
        assert "chose nothing" in answer.response_metadata["seka"]["warnings"][-1]

    def test_off(self, chat):
        for options in ({"highlight": "off"}, {"steering": None}):
            answer = rag(chat.bind(**options)).invoke(ask("Astrid"))
            assert sources(answer) == set()
            assert answer.response_metadata["seka"]["tokens_marked"] == 0

    def test_parser_at_the_end(self, chat):
        assert isinstance((rag(chat) | StrOutputParser()).invoke(ask("Astrid")), str)
