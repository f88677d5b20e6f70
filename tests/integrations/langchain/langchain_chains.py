"""Chains of the usual form, with a retriever whose documents are told apart by their sources."""

from __future__ import annotations

import hashlib
from typing import TypedDict

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnablePassthrough
from langgraph.graph import START, StateGraph

from seka_rag.demo.words import CITIES, NAMES


class Facts(BaseRetriever):
    """Two documents about whoever is asked about, known by their sources; both say something nobody else's do."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return documents(query)


def documents(question: str) -> list[Document]:
    name = question.split()[-2]
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16)
    city, other = CITIES[number % len(CITIES)], CITIES[(number + 1) % len(CITIES)]
    return [
        Document(page_content=f"{name} moved to {city} last year.", metadata={"source": f"{name}/1"}),
        Document(page_content=f"People say that {name} likes {other}.", metadata={"source": f"{name}/2"}),
    ]


def ask(name: str) -> str:
    return f"Where does {name} live?"


def questions(n: int) -> list[str]:
    # the retriever reads the second last word
    return [ask(name) for name in NAMES[:n]]


def join(docs: list[Document]) -> str:
    return "\n\n".join(d.page_content for d in docs)


TEMPLATE = ChatPromptTemplate.from_messages(
    [
        ("system", "Answer the question using only the context."),
        ("human", "Context:\n{context}\n\nQuestion: {question}"),
    ]
)


def rag(model, prompt=TEMPLATE, retriever=None):
    """The chain of every tutorial, without the parser."""
    found = (retriever or Facts()) | join
    return {"context": found, "question": RunnablePassthrough()} | prompt | model


class State(TypedDict):
    question: str
    context: list[Document]
    answer: AIMessage


def two_nodes(model):
    """The graph of LangGraph's RAG tutorial."""

    def retrieve(state: State):
        return {"context": Facts().invoke(state["question"])}

    def generate(state: State):
        messages = TEMPLATE.invoke({"context": join(state["context"]), "question": state["question"]})
        return {"answer": model.invoke(messages)}

    builder = StateGraph(State).add_sequence([retrieve, generate])
    return builder.add_edge(START, "retrieve").compile()


def sources(message) -> set[str]:
    return {h["source"] for h in message.response_metadata["seka"]["highlights"]}


def own_sources(question: str) -> set[str]:
    return {d.metadata["source"] for d in documents(question)}


def marked_text(message, messages) -> list[str]:
    """The characters that a report's highlights cover."""
    report = message.response_metadata["seka"]["highlights"]
    return [messages[h["message"]].content[h["start"] : h["end"]] for h in report]
