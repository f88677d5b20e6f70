"""The ready-made RAG chains and agents of LangChain and LangGraph, each with its own highlights and no others."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_chains import Facts, ask, documents, join, own_sources, questions, rag, sources, two_nodes
from langchain_classic.chains import create_history_aware_retriever, create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.retrievers import (
    ContextualCompressionRetriever,
    EnsembleRetriever,
    MultiQueryRetriever,
    ParentDocumentRetriever,
)
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.stores import InMemoryStore
from langchain_core.tools import tool
from langchain_seka import mark_message
from langchain_seka.middleware import SekaMiddleware
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode

from seka_rag import Span
from seka_rag.errors import SteeringError
from seka_rag.highlight.select import AllPassages
from seka_rag.highlight.trust import Trusted, TrustPolicy

STUFF = ChatPromptTemplate.from_messages([("system", "Use this:\n{context}"), ("human", "{input}")])


@pytest.fixture(autouse=True)
def _mark_all(chat):
    chat.highlighter = "all"


@pytest.fixture
def answers(chat):
    """The model, and every answer that it gave."""
    seen: list[AIMessage] = []
    return chat | RunnableLambda(lambda m: (seen.append(m), m)[1]), seen


class TestRetrievers:
    """Retrievers made of others: what the outermost one returned counts."""

    def check(self, chat, retriever, wanted=None):
        answer = rag(chat, retriever=retriever).invoke(ask("Astrid"))
        assert sources(answer) == (own_sources(ask("Astrid")) if wanted is None else wanted)
        report = answer.response_metadata["seka"]
        assert report["tokens_edited"] == report["tokens_marked"] > 0

    def test_ensemble(self, chat):
        class Other(Facts):
            def _get_relevant_documents(self, query, *, run_manager):
                return [Document(page_content="Oslo is by the sea.", metadata={"source": "sea"})]

        both = EnsembleRetriever(retrievers=[Facts(), Other()], weights=[0.5, 0.5])
        self.check(chat, both, own_sources(ask("Astrid")) | {"sea"})

    def test_multi_query(self, chat):
        """The same model writes the questions; those calls have no highlights."""

        class Lines(BaseOutputParser):
            def parse(self, text):
                return [ask("Astrid"), ask("Astrid")]

        write = PromptTemplate.from_template("Other words for: {question}")
        seen = []
        spy = RunnableLambda(lambda m: (seen.append(m), m)[1])
        retriever = MultiQueryRetriever(retriever=Facts(), llm_chain=write | chat | spy | Lines())
        self.check(chat, retriever)
        assert [sources(m) for m in seen] == [set()]

    def test_contextual_compression(self, chat):
        class Cut(BaseDocumentCompressor):
            def compress_documents(self, documents, query, callbacks=None):
                return [d.model_copy(update={"page_content": d.page_content.split(" last")[0]}) for d in documents[:1]]

        compressed = ContextualCompressionRetriever(base_compressor=Cut(), base_retriever=Facts())
        self.check(chat, compressed, {"Astrid/1"})

    def test_parent_documents(self, chat):
        from langchain_core.vectorstores import InMemoryVectorStore
        from langchain_text_splitters import CharacterTextSplitter

        retriever = ParentDocumentRetriever(
            vectorstore=InMemoryVectorStore(_Letters()),
            docstore=InMemoryStore(),
            child_splitter=CharacterTextSplitter(separator=" ", chunk_size=20, chunk_overlap=0),
        )
        retriever.add_documents(documents(ask("Astrid")))
        self.check(chat, retriever)


class _Letters:
    """Counts of letters: embeddings enough for two documents."""

    def embed_query(self, text):
        return [1.0 + text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"]

    def embed_documents(self, texts):
        return [self.embed_query(t) for t in texts]


class TestChains:
    def test_stuff_and_retrieval(self, answers):
        model, seen = answers
        create_retrieval_chain(Facts(), create_stuff_documents_chain(model, STUFF)).invoke({"input": ask("Astrid")})
        assert [sources(m) for m in seen] == [own_sources(ask("Astrid"))]

    def test_history_aware(self, chat, answers):
        """The model first rewrites the question; then it answers, and only then it has highlights."""
        model, seen = answers
        contextualize = ChatPromptTemplate.from_messages([MessagesPlaceholder("chat_history"), ("human", "{input}")])
        rewritten = RunnableLambda(lambda p: model.invoke(p) and AIMessage(ask("Astrid")))
        retriever = create_history_aware_retriever(rewritten, Facts(), contextualize)
        qa = ChatPromptTemplate.from_messages(
            [("system", "{context}"), MessagesPlaceholder("chat_history"), ("human", "{input}")]
        )
        chain = create_retrieval_chain(retriever, create_stuff_documents_chain(model, qa))
        history = [HumanMessage("Who is Astrid?"), AIMessage("A person.")]
        chain.invoke({"input": "And where does she live?", "chat_history": history})
        assert [sources(m) for m in seen] == [set(), own_sources(ask("Astrid"))]

    def test_parallel_chains_over_different_retrievers(self, chat):
        class Other(Facts):
            def _get_relevant_documents(self, query, *, run_manager):
                return [Document(page_content="Oslo is by the sea.", metadata={"source": "sea"})]

        got = RunnableParallel(a=rag(chat), b=rag(chat, retriever=Other())).invoke(ask("Astrid"))
        assert sources(got["a"]) == own_sources(ask("Astrid"))
        assert sources(got["b"]) == {"sea"}

    def test_failing_retrievers(self, chat):
        """One fails, another answers: by a fallback, and beside it in a batch."""

        class Failing(Facts):
            def _get_relevant_documents(self, query, *, run_manager):
                if "Astrid" in query:
                    raise ConnectionError("the index is away")
                return documents(query)

        answer = rag(chat, retriever=Failing().with_fallbacks([Facts()])).invoke(ask("Astrid"))
        assert sources(answer) == own_sources(ask("Astrid"))
        asked = questions(6)
        got = rag(chat, retriever=Failing()).batch(asked, return_exceptions=True)
        failed = [isinstance(m, ConnectionError) for m in got]
        assert failed == ["Astrid" in q for q in asked]
        assert all(sources(m) == own_sources(q) for q, m, f in zip(asked, got, failed, strict=True) if not f)


# --- graphs


class TestGraphs:
    def test_streamed(self, chat):
        updates = list(two_nodes(chat).stream({"question": ask("Astrid")}, stream_mode=["messages", "updates"]))
        (final,) = [u["generate"]["answer"] for kind, u in updates if kind == "updates" and "generate" in u]
        assert sources(final) == own_sources(ask("Astrid"))

    def test_agentic_rag_with_a_checkpointer(self, chat):
        """The model is made to call the retriever tool, the tool's documents come back out of the checkpoint."""
        model = chat.bind(max_tokens=60, highlight_tools=["look_up"])

        class Messages(TypedDict):
            messages: Annotated[list[AnyMessage], add_messages]

        def agent(state: Messages):
            found = any(isinstance(m, ToolMessage) for m in state["messages"])
            if found:
                return {"messages": [model.invoke(state["messages"], max_tokens=1)]}
            return {
                "messages": [chat.bind_tools([look_up], tool_choice="look_up", max_tokens=60).invoke(state["messages"])]
            }

        builder = StateGraph(Messages)
        builder.add_node("agent", agent)
        builder.add_node("tools", ToolNode([look_up]))
        builder.add_edge(START, "agent")
        builder.add_conditional_edges("agent", lambda s: "tools" if s["messages"][-1].tool_calls else END)
        builder.add_edge("tools", "agent")
        graph = builder.compile(checkpointer=InMemorySaver(), interrupt_before=["agent"])
        config = {"configurable": {"thread_id": "1"}}
        graph.invoke({"messages": [HumanMessage("Where do they live?")]}, config)
        graph.invoke(None, config)  # a call, then the tool
        state = graph.invoke(None, config)  # from the checkpoint
        called = state["messages"][1].tool_calls[0]["args"]["person"]
        answer = state["messages"][-1]
        assert sources(answer) == own_sources(ask(called))
        assert {h["message"] for h in answer.response_metadata["seka"]["highlights"]} == {2}


@tool(response_format="content_and_artifact")
def look_up(person: Literal["Astrid", "Greta"]) -> tuple[str, list[Document]]:
    """Look somebody up in the notes."""
    found = documents(ask(person))
    return join(found), found


@tool(response_format="content_and_artifact")
def browse(person: Literal["Astrid", "Greta"]) -> tuple[str, list[Document]]:
    """Look somebody up on the web, where anybody can write."""
    found = documents(ask(person))
    return join(found), found


@tool
def tell(person: Literal["Astrid", "Greta"]) -> str:
    """Look somebody up, and return the text alone."""
    return join(documents(ask(person)))


class Forced(AgentMiddleware):
    """The tiny model cannot choose: its first turn must be a call of this tool, its second an answer."""

    def __init__(self, name):
        super().__init__()
        self.tool_name = name

    def wrap_model_call(self, request, handler):
        done = any(isinstance(m, ToolMessage) for m in request.messages)
        return handler(request.override(tool_choice="none" if done else self.tool_name))

    async def awrap_model_call(self, request, handler):
        done = any(isinstance(m, ToolMessage) for m in request.messages)
        return await handler(request.override(tool_choice="none" if done else self.tool_name))


class TestAgents:
    def agent(self, chat, name, **options):
        chat.max_tokens = 60
        marks = SekaMiddleware(**{"tools": ["look_up"], "highlighter": "all", **options})
        return create_agent(
            chat, [look_up, browse, tell], middleware=[Forced(name), marks], system_prompt="Answer from the notes."
        )

    def ask(self, agent):
        messages = agent.invoke({"messages": [HumanMessage("Where do they live?")]})["messages"]
        assert [m.type for m in messages] == ["human", "ai", "tool", "ai"]
        return messages

    def test_a_retriever_tool(self, chat):
        messages = self.ask(self.agent(chat, "look_up"))
        person = messages[1].tool_calls[0]["args"]["person"]
        assert sources(messages[1]) == set()
        assert sources(messages[3]) == own_sources(ask(person))
        assert messages[3].response_metadata["seka"]["tokens_edited"] > 0
        assert "seka" not in messages[2].additional_kwargs  # the agent's own state is left as it was

    async def test_async(self, chat):
        result = await self.agent(chat, "look_up").ainvoke({"messages": [HumanMessage("Where do they live?")]})
        assert len(sources(result["messages"][3])) == 2

    def test_a_tool_that_is_not_named_is_not_trusted(self, chat):
        assert sources(self.ask(self.agent(chat, "browse"))[3]) == set()

    def test_a_trust_policy_chooses_among_its_documents(self, chat):
        policy = Trusted(AllPassages(), TrustPolicy(sources=["*/2"]))
        messages = self.ask(self.agent(chat, "look_up", highlighter=policy))
        assert {s[-2:] for s in sources(messages[3])} == {"/2"}

    def test_instructions(self, chat):
        messages = self.ask(self.agent(chat, "look_up", highlight=["context", "instructions", "question"]))
        report = messages[3].response_metadata["seka"]["highlights"]
        assert [h["message"] for h in report if h["source"] in ("instructions", "question")] == [0, 1]
        assert sources(messages[1]) == {"instructions", "question"}
        only = self.ask(self.agent(chat, "look_up", highlight=["instructions"]))
        assert sources(only[3]) == {"instructions"}

    def test_why_nothing_is_marked_is_told(self, chat):
        nobody = Trusted(AllPassages(), TrustPolicy(sources=["handbook/*"]))
        for name, options, reason in (
            ("look_up", {"highlighter": nobody}, "look at its trust policy"),
            ("tell", {"tools": ["tell"]}, "'tell' returned no documents as its artifact"),
            ("look_up", {"tools": ["lookup"]}, "highlight_tools names 'lookup', and the tools are"),
            ("look_up", {"highlighter": nobody, "highlight": ["context", "question"]}, "look at its trust policy"),
        ):
            chat.on_unmarked = "raise"
            with pytest.raises(SteeringError, match=reason):
                self.ask(self.agent(chat, name, **options))
            chat.on_unmarked = "ignore"
            told = self.ask(self.agent(chat, name, **options))[3].response_metadata["seka"]["warnings"]
            assert reason in told[-1]
            assert ("so it is not highlighted" in told[0]) == ("highlighter" in options)

    def test_marks_of_the_users_code_stay(self, chat):
        message = mark_message(HumanMessage("It rained. Where do they live?"), [Span(0, 10, source="mine")])
        agent = self.agent(chat, "look_up", highlight=["context", "question"])
        asked = agent.invoke({"messages": [message]})["messages"][1]
        assert [(h["start"], h["end"]) for h in asked.response_metadata["seka"]["highlights"]] == [(0, 10)]

    def test_a_structured_answer(self, chat):
        from pydantic import BaseModel

        class Home(BaseModel):
            """Where somebody lives."""

            city: Literal["Lyon", "Oslo"]

        chat.max_tokens = 60
        agent = create_agent(chat, [], response_format=Home)
        result = agent.invoke({"messages": [HumanMessage("Where does Astrid live?")]})
        assert isinstance(result["structured_response"], Home)
