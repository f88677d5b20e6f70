"""Recipes of LangChain's and LangGraph's tutorials, over three notes; only the answering model is replaced."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypedDict

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, dynamic_prompt
from langchain_classic.chains import (
    ConversationalRetrievalChain,
    HypotheticalDocumentEmbedder,
    RetrievalQA,
    RetrievalQAWithSourcesChain,
    create_history_aware_retriever,
    create_retrieval_chain,
)
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.retrievers import (
    ContextualCompressionRetriever,
    MergerRetriever,
    MultiVectorRetriever,
    RePhraseQueryRetriever,
    TimeWeightedVectorStoreRetriever,
)
from langchain_classic.retrievers.document_compressors import (
    DocumentCompressorPipeline,
    EmbeddingsFilter,
    LLMChainExtractor,
    LLMChainFilter,
)
from langchain_community.document_transformers import EmbeddingsRedundantFilter, LongContextReorder
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage, trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import (
    ChatPromptTemplate,
    FewShotChatMessagePromptTemplate,
    MessagesPlaceholder,
    PromptTemplate,
)
from langchain_core.runnables import (
    ConfigurableField,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    chain,
)
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.stores import InMemoryByteStore
from langchain_core.tools import create_retriever_tool
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_seka import HighlightPrompt, SekaMiddleware
from langchain_text_splitters import CharacterTextSplitter
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from pydantic import BaseModel
from recipes import BORIS, GRETA, LYON, MARKET, QUESTION, Book, words

from seka_rag import highlighting

BOOK = Book("https://python.langchain.com/docs/")
recipe = BOOK.recipe
COOKBOOK = "https://github.com/langchain-ai/langchain/blob/master/cookbook/"
NOTES = [
    Document(text, metadata={"source": f"{i}.txt", "year": 2020 + i}, id=str(i))
    for i, text in enumerate((BORIS, GRETA, MARKET))
]
RAG = ChatPromptTemplate.from_template("Answer from the context.\n\n{context}\n\nQuestion: {question}")
STUFF = ChatPromptTemplate.from_messages([("system", "Answer from this.\n\n{context}"), ("human", "{input}")])


class Words(Embeddings):
    def embed_query(self, text: str) -> list[float]:
        return words(text)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [words(text) for text in texts]


def store(notes=NOTES) -> InMemoryVectorStore:
    made = InMemoryVectorStore(Words())
    made.add_documents(notes)
    return made


def retriever(**search):
    return store().as_retriever(search_kwargs={"k": 2, **search})


def join(docs) -> str:
    return "\n\n".join(d.page_content for d in docs)


def answer(found, model, prompt=RAG):
    return {"context": found | join, "question": RunnablePassthrough()} | prompt | model


def scripted(*texts: str):
    """A model beside ours that says what only a competent one would."""
    return FakeListChatModel(responses=list(texts))


# --- chains


@recipe("a chain that returns its sources", "how_to/qa_sources")
def sources_returned(model):
    from_docs = RunnablePassthrough.assign(context=lambda x: join(x["context"])) | RAG | model | StrOutputParser()
    found = RunnableParallel(context=retriever(), question=RunnablePassthrough())
    assert len(found.assign(answer=from_docs).invoke(QUESTION)["context"]) == 2


@recipe("documents with numbers and titles, for citations by number", "how_to/qa_citations")
def numbered(model):
    def titled(docs):
        return "\n\n".join(
            f"Source ID: {i}\nArticle Title: {d.metadata['source']}\nArticle Snippet: {d.page_content}"
            for i, d in enumerate(docs)
        )

    ({"context": retriever() | titled, "question": RunnablePassthrough()} | RAG | model).invoke(QUESTION)


@recipe("the events of a stream", "how_to/qa_streaming")
async def events(model):
    assert [e async for e in answer(retriever(), model).astream_events(QUESTION, version="v2")]


@recipe("one retriever for each user", "how_to/qa_per_user")
def per_user(model):
    search = ConfigurableField(id="search")
    own = retriever().configurable_fields(search_kwargs=search)
    allowed = {"k": 3, "filter": lambda d: d.metadata["source"] != "0.txt"}
    answer(own, model).invoke(QUESTION, {"configurable": {"search": allowed}})


@recipe("a chat whose history is kept for each session", "how_to/message_history", ((LYON,), (LYON,)))
def history(model):
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Answer from this.\n\n{context}"), MessagesPlaceholder("history"), ("human", "{question}")]
    )
    kept = InMemoryChatMessageHistory()
    inner = RunnablePassthrough.assign(context=lambda x: join(retriever().invoke(x["question"]))) | prompt | model
    chat = RunnableWithMessageHistory(
        inner, lambda session: kept, input_messages_key="question", history_messages_key="history"
    )
    for _ in range(2):
        chat.invoke({"question": QUESTION}, {"configurable": {"session_id": "1"}})
    assert len(kept.messages) == 4


@recipe("a history that is trimmed to fit", "how_to/trim_messages")
def trimmed(model):
    trim = trim_messages(max_tokens=2, strategy="last", token_counter=len, include_system=True, start_on="human")
    old = [HumanMessage("Hello"), AIMessage("Hello"), HumanMessage("Who is Boris?"), AIMessage("A baker.")]
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Answer from this.\n\n{context}"), MessagesPlaceholder("old"), ("human", "{question}")]
    )
    found = {"context": retriever() | join, "question": RunnablePassthrough(), "old": lambda _: old}
    (found | prompt | trim | model).invoke(QUESTION)


@recipe(
    "examples of earlier questions before the context",
    "how_to/few_shot_examples_chat",
    note="Few-shot templates need `HighlightPrompt`, which names the variable",
)
def few_shot(model):
    examples = FewShotChatMessagePromptTemplate(
        examples=[{"q": "Where does Ada live?", "a": "Ada lives in Oslo."}],
        example_prompt=ChatPromptTemplate.from_messages([("human", "{q}"), ("ai", "{a}")]),
    )
    prompt = ChatPromptTemplate.from_messages([examples, ("human", "{context}\n\n{question}")])
    marked = HighlightPrompt(prompt=prompt, variables=["context"], question="question")
    ({"context": retriever(), "question": RunnablePassthrough()} | marked | model).invoke(QUESTION)


@recipe("a branch that answers small talk without retrieval", "how_to/routing", ((), (LYON,)))
def branch(model):
    routed = RunnableBranch((lambda q: "?" in q, answer(retriever(), model)), RunnableLambda(lambda q: q) | model)
    routed.invoke("Hello")
    routed.invoke(QUESTION)


@recipe("a prompt that is chosen by likeness to the question", "how_to/routing")
def route_by_embedding(model):
    def prompt_for(given):
        texts = ["You know where people live.\n{context}\n{question}", "You know sums.\n{context}\n{question}"]
        near = [sum(a * b for a, b in zip(words(t), words(given["question"]), strict=True)) for t in texts]
        return ChatPromptTemplate.from_template(texts[near.index(max(near))])

    ({"context": retriever() | join, "question": RunnablePassthrough()} | RunnableLambda(prompt_for) | model).invoke(
        QUESTION
    )


@recipe("a model that is exchanged by configuration", "how_to/configure")
def alternatives(model):
    either = model.configurable_alternatives(ConfigurableField(id="llm"), other=scripted("Oslo"))
    made = answer(retriever(), either)
    assert made.with_config(configurable={"llm": "other"}).invoke(QUESTION).content == "Oslo"
    made.invoke(QUESTION)


@recipe("a fallback when the first model fails", "how_to/fallbacks")
def fallback(model):
    def fail(_):
        raise ConnectionError("away")

    answer(retriever(), RunnableLambda(fail).with_fallbacks([model])).invoke(QUESTION)


# --- ready-made chains of earlier versions


@recipe("RetrievalQA, stuff", "versions/migrating_chains/retrieval_qa")
def retrieval_qa(model):
    RetrievalQA.from_chain_type(model, retriever=retriever()).invoke(QUESTION)


@recipe(
    "RetrievalQA, map_reduce",
    "versions/migrating_chains/map_reduce_chain",
    ((LYON,), (), ()),
    "Each passage is read by itself; what the model wrote of them is not marked",
)
def map_reduce(model):
    RetrievalQA.from_chain_type(model, "map_reduce", retriever=retriever()).invoke(QUESTION)


@recipe(
    "RetrievalQA, refine",
    "versions/migrating_chains/refine_docs_chain",
    ((LYON,), ()),
    "The answer so far is not marked",
)
def refine(model):
    RetrievalQA.from_chain_type(model, "refine", retriever=retriever()).invoke(QUESTION)


@recipe("RetrievalQAWithSourcesChain", "versions/migrating_chains/retrieval_qa")
def with_sources(model):
    prompt = PromptTemplate.from_template("{summaries}\n\nQuestion: {question}\nAnswer with SOURCES:")
    made = RetrievalQAWithSourcesChain.from_chain_type(
        model, retriever=retriever(), chain_type_kwargs={"prompt": prompt}
    )
    made.invoke({"question": QUESTION})


@recipe(
    "ConversationalRetrievalChain",
    "versions/migrating_chains/conversation_retrieval_chain",
    note="Another model condenses the question",
)
def conversational(model):
    made = ConversationalRetrievalChain.from_llm(model, retriever(), condense_question_llm=scripted(QUESTION))
    made.invoke({"question": QUESTION, "chat_history": [("Who is Greta?", "A person.")]})


# --- retrievers


@recipe("summaries are searched, documents are read", "how_to/multi_vector")
def multi_vector(model):
    summaries = InMemoryVectorStore(Words())
    made = MultiVectorRetriever(vectorstore=summaries, byte_store=InMemoryByteStore(), id_key="doc_id")
    summaries.add_documents(
        [Document("Where Greta lives.", metadata={"doc_id": "1"}), Document("Boris.", metadata={"doc_id": "0"})]
    )
    made.docstore.mset([(d.id, d) for d in NOTES])
    answer(made, model).invoke(QUESTION)


@recipe(
    "several retrievers merged", "integrations/retrievers/merger_retriever", ((LYON,),), "Both found it; it counts once"
)
def merged(model):
    answer(MergerRetriever(retrievers=[retriever(k=1), retriever(k=3)]), model).invoke(QUESTION)


@recipe("newer documents first", "how_to/time_weighted_vectorstore")
def time_weighted(model):
    class Timed(InMemoryVectorStore):  # one that says how relevant each is
        def similarity_search_with_relevance_scores(self, query, k=4, **kwargs):
            return self.similarity_search_with_score(query, k)

    made = TimeWeightedVectorStoreRetriever(vectorstore=Timed(Words()), decay_rate=0.01, k=2)
    now = datetime.now()
    made.add_documents([d.model_copy(deep=True) for d in NOTES], current_time=now)
    answer(made, model).invoke(QUESTION)


@recipe("the question rephrased for the search", "integrations/retrievers/re_phrase")
def rephrased(model):
    answer(RePhraseQueryRetriever.from_llm(retriever(), scripted("Greta lives")), model).invoke(QUESTION)


@recipe("the best documents at both ends", "how_to/long_context_reorder")
def reordered(model):
    order = RunnableLambda(lambda docs: LongContextReorder().transform_documents(docs))
    answer(retriever(k=3) | order, model).invoke(QUESTION)


@recipe("documents unlike the question filtered out", "how_to/contextual_compression")
def embeddings_filter(model):
    keep = EmbeddingsFilter(embeddings=Words(), similarity_threshold=0.1)
    answer(ContextualCompressionRetriever(base_compressor=keep, base_retriever=retriever(k=3)), model).invoke(QUESTION)


@recipe(
    "documents split, without doublets, and filtered",
    "how_to/contextual_compression",
)
def compressor_pipeline(model):
    steps = [
        CharacterTextSplitter(separator=". ", chunk_size=25, chunk_overlap=0, keep_separator="end"),
        EmbeddingsRedundantFilter(embeddings=Words()),
        EmbeddingsFilter(embeddings=Words(), similarity_threshold=0.1),
    ]
    made = ContextualCompressionRetriever(
        base_compressor=DocumentCompressorPipeline(transformers=steps), base_retriever=retriever(k=3)
    )
    answer(made, model).invoke(QUESTION)


@recipe(
    "a model extracts what is relevant",
    "how_to/contextual_compression",
)
def extractor(model):
    cut = LLMChainExtractor.from_llm(scripted(LYON, "NO_OUTPUT"))
    answer(ContextualCompressionRetriever(base_compressor=cut, base_retriever=retriever()), model).invoke(QUESTION)


@recipe("a model says which documents to keep", "how_to/contextual_compression")
def llm_filter(model):
    keep = LLMChainFilter.from_llm(scripted("YES", "NO"))
    answer(ContextualCompressionRetriever(base_compressor=keep, base_retriever=retriever()), model).invoke(QUESTION)


@recipe(
    "scores of the search beside each document",
    "how_to/add_scores_retriever",
    note="The plain function stands in `highlighting(...)`",
)
def with_scores(model):
    @chain
    def scored(query: str) -> list[Document]:
        docs = []
        for doc, score in store().similarity_search_with_score(query, k=2):
            doc.metadata["score"] = score
            docs.append(doc)
        return docs

    with highlighting(scored.invoke(QUESTION), question=QUESTION):
        answer(scored, model).invoke(QUESTION)


@recipe(
    "a hypothetical answer is searched for",
    COOKBOOK + "hypothetical_document_embeddings.ipynb",
    note="The model of the hypothesis is another",
)
def hyde(model):
    embed = HypotheticalDocumentEmbedder.from_llm(scripted("Greta lives in Oslo."), Words(), "web_search")
    made = InMemoryVectorStore(embed)
    made.add_embeddings = None
    texts = InMemoryVectorStore(Words())
    texts.add_documents(NOTES)
    made.store = texts.store
    answer(made.as_retriever(search_kwargs={"k": 2}), model).invoke(QUESTION)


# --- the question is worked on first


@recipe(
    "query analysis: the model fills in a search with a filter",
    "how_to/query_constructing_filters",
    ((), (LYON,)),
    "The search is held to its schema",
)
def query_analysis(model):
    class Search(BaseModel):
        """A search in the notes."""

        subject: Literal["Greta", "Boris"]
        year: Literal[2020, 2021]

    analysed = model.with_structured_output(Search).invoke(QUESTION, max_tokens=120)
    assert isinstance(analysed, Search)
    answer(retriever(filter=lambda d: d.metadata["year"] >= analysed.year), model).invoke(QUESTION)


@recipe(
    "step back: a general question beside the user's",
    COOKBOOK + "stepback-qa.ipynb",
    ((LYON, "Boris works as a baker."),),
    "Each passage is marked for the question that found it",
)
def step_back(model):
    prompt = ChatPromptTemplate.from_template("{normal_context}\n\n{step_back_context}\n\nQuestion: {question}")
    general = (
        RunnablePassthrough()
        | ChatPromptTemplate.from_template("Step back from: {q}")
        | scripted("What does Boris work as?")
    )
    found = {
        "normal_context": retriever(k=1) | join,
        "step_back_context": {"q": RunnablePassthrough()} | general | StrOutputParser() | retriever(k=1) | join,
        "question": RunnablePassthrough(),
    }
    (found | prompt | model).invoke(QUESTION)


@recipe(
    "decomposition: sub-questions answered one by one",
    "how_to/query_multiple_queries",
    ((LYON,), ("Boris works as a baker.",), ()),
    "Their answers, put together, are not marked",
)
def decomposition(model):
    parts = [QUESTION, "What does Boris work as?"]
    given = [answer(retriever(k=1), model).invoke(part).content for part in parts]
    together = ChatPromptTemplate.from_template("{answers}\n\nQuestion: {question}")
    (together | model).invoke({"answers": "\n".join(given), "question": "Who are Greta and Boris?"})


@recipe("RAG fusion: ranks of several searches are joined", COOKBOOK + "rag_fusion.ipynb")
def fusion(model):
    def fuse(lists):
        scores = {}
        for docs in lists:
            for rank, doc in enumerate(docs):
                scores[doc.page_content] = (scores.get(doc.page_content, (0, doc))[0] + 1 / (60 + rank), doc)
        return [doc for _, doc in sorted(scores.values(), key=lambda kept: -kept[0])]

    several = RunnableLambda(lambda q: [q, "Greta lives where"])
    answer(several | retriever().map() | fuse, model).invoke(QUESTION)


# --- without a question


@recipe("a summary of documents", "tutorials/summarization", ((),), "No retriever and no question: nothing is marked")
def summary(model):
    create_stuff_documents_chain(model, ChatPromptTemplate.from_template("Summarise:\n\n{context}")).invoke(
        {"context": NOTES}
    )


@recipe(
    "an answer from a result of SQL", "tutorials/sql_qa", ((),), "A row is no document: nothing is marked by itself"
)
def sql(model):
    prompt = PromptTemplate.from_template("Question: {question}\nSQL: {query}\nResult: {result}\nAnswer:")
    run = RunnablePassthrough.assign(query=lambda _: "SELECT city FROM homes").assign(result=lambda _: "[('Lyon',)]")
    (run | prompt | model).invoke({"question": QUESTION})


@recipe(
    "rows of SQL that the application marks", "tutorials/sql_qa", (("Lyon",),), "`HighlightPrompt` names the variable"
)
def sql_marked(model):
    prompt = PromptTemplate.from_template("Question: {question}\nSQL: {query}\nResult: {result}\nAnswer:")
    marked = HighlightPrompt(prompt=prompt, variables=["result"], highlighter="all")
    (marked | model).invoke({"question": QUESTION, "query": "SELECT city FROM homes", "result": "Lyon"})


# --- graphs and agents


class State(TypedDict):
    question: str
    documents: list[Document]
    answer: AIMessage


def graph(*steps, state: Any = State):
    return StateGraph(state).add_sequence(list(steps)).add_edge(START, steps[0].__name__).compile()


@recipe(
    "corrective RAG: each document is graded before it is used",
    "https://langchain-ai.github.io/langgraph/tutorials/rag/langgraph_crag/",
    ((LYON,), (), (LYON,)),
    "The grades and the answer are ours; grading marks the sentence as well",
)
def corrective(model):
    class Grade(BaseModel):
        """Whether a document is relevant."""

        binary_score: Literal["yes", "no"]

    grade = ChatPromptTemplate.from_template("Document: {document}\n\nQuestion: {question}")

    def retrieve(state: State):
        return {"documents": retriever().invoke(state["question"])}

    def check(state: State):
        judge = grade | model.with_structured_output(Grade)
        for doc in state["documents"]:
            judge.invoke({"document": doc.page_content, "question": state["question"]})
        return {"documents": [d for d in state["documents"] if "Greta" in d.page_content]}

    def generate(state: State):
        return {"answer": (RAG | model).invoke({"context": join(state["documents"]), "question": state["question"]})}

    model.max_tokens = 120
    graph(retrieve, check, generate).invoke({"question": QUESTION})


@recipe(
    "agentic RAG: the model calls the retriever as a tool",
    "https://langchain-ai.github.io/langgraph/tutorials/rag/langgraph_agentic_rag/",
    ((), (LYON,)),
    "`highlight_tools` names the tool",
)
def agentic(model):
    tool = create_retriever_tool(
        retriever(), "search_notes", "Search the notes.", response_format="content_and_artifact"
    )

    class Messages(TypedDict):
        messages: Annotated[list[AnyMessage], add_messages]

    def ask(state: Messages):
        return {"messages": [model.bind_tools([tool], tool_choice="none").invoke(state["messages"])]}

    def search(state: Messages):
        call = AIMessage("", tool_calls=[{"name": "search_notes", "args": {"query": QUESTION}, "id": "1"}])
        return {"messages": [call, *ToolNode([tool]).invoke({"messages": [call]})["messages"]]}

    def reply(state: Messages):
        return {"messages": [model.invoke(state["messages"], highlight_tools=["search_notes"])]}

    graph(ask, search, reply, state=Messages).invoke({"messages": [HumanMessage(QUESTION)]})


@recipe(
    "an agent whose prompt is made of what was found",
    "https://docs.langchain.com/oss/python/langchain/rag",
    note="`similarity_search` is no retriever: `highlighting(...)` or a retriever names the documents",
)
def dynamic(model):
    found = store().similarity_search(QUESTION, k=2)

    @dynamic_prompt
    def with_context(request):
        return f"Answer from this.\n\n{join(found)}"

    agent = create_agent(model, [], middleware=[with_context])
    with highlighting(found, question=QUESTION):
        agent.invoke({"messages": [HumanMessage(QUESTION)]})


@recipe(
    "an agent whose middleware retrieves and fills a template",
    "https://docs.langchain.com/oss/python/langchain/rag",
)
def middleware_retrieves(model):
    template = ChatPromptTemplate.from_messages([("system", "Answer from this.\n\n{context}")])

    @dynamic_prompt
    def with_context(request):
        found = retriever().invoke(request.messages[-1].content)
        return template.invoke({"context": join(found)}).to_messages()[0].content

    create_agent(model, [], middleware=[with_context]).invoke({"messages": [HumanMessage(QUESTION)]})


@recipe(
    "middleware that adds what was found before the model",
    "https://docs.langchain.com/oss/python/langchain/rag",
    note="Documents come as the artifact of a tool message",
)
def before_model(model):
    class Retrieve(AgentMiddleware):
        def before_model(self, state, runtime):
            found = retriever().invoke(state["messages"][-1].content)
            call = AIMessage("", tool_calls=[{"name": "notes", "args": {}, "id": "1"}])
            return {"messages": [call, ToolMessage(join(found), tool_call_id="1", name="notes", artifact=found)]}

    marks = SekaMiddleware(tools=["notes"])
    create_agent(model, [], middleware=[Retrieve(), marks]).invoke({"messages": [HumanMessage(QUESTION)]})


@recipe(
    "a conversation: the question is condensed, then answered in pieces",
    "tutorials/qa_chat_history",
    ((), (LYON,)),
)
async def chat_history(model):
    condense = ChatPromptTemplate.from_messages(
        [("system", "Rephrase."), MessagesPlaceholder("chat_history"), ("human", "{input}")]
    )
    own = model | RunnableLambda(lambda _: QUESTION)
    found = create_history_aware_retriever(own, retriever(), condense)
    made = create_retrieval_chain(found, create_stuff_documents_chain(model, STUFF))
    given = {"input": "Where does she live?", "chat_history": [HumanMessage("Who is Greta?"), AIMessage("A person.")]}
    assert [piece async for piece in made.astream(given)]


@recipe("a local model that completes a prompt", "tutorials/local_rag", note="`SekaLLM` in place of the chat model")
def local(model):
    from langchain_seka import SekaLLM

    prompt = PromptTemplate.from_template("{context}\n\nQuestion: {question}\nAnswer:")
    answer(retriever(), SekaLLM.from_steered(model.engine, max_tokens=1), prompt).invoke(QUESTION)


@recipe(
    "a system message that is written by hand",
    "how_to/sequence",
    ((),),
    "An f-string tells nobody what in it was retrieved: you are warned",
)
def by_hand(model):
    def write(question):
        found = retriever().invoke(question)
        return [SystemMessage(f"Answer from this.\n\n{join(found)}"), HumanMessage(question)]

    (RunnableLambda(write) | model).invoke(QUESTION)
