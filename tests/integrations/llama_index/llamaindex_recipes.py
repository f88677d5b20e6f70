"""Recipes of LlamaIndex' examples, over three notes; the answering LLM is the only thing that is replaced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from llama_index.core import (
    Document,
    DocumentSummaryIndex,
    PromptTemplate,
    QueryBundle,
    SimpleKeywordTableIndex,
    StorageContext,
    SummaryIndex,
    VectorStoreIndex,
    get_response_synthesizer,
)
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.extractors import SummaryExtractor
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.indices.vector_store import VectorIndexAutoRetriever
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import ChatMessage, CompletionResponse, CustomLLM, LLMMetadata, MessageRole
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import (
    HierarchicalNodeParser,
    SentenceSplitter,
    SentenceWindowNodeParser,
    get_leaf_nodes,
)
from llama_index.core.objects import ObjectIndex
from llama_index.core.postprocessor import (
    LLMRerank,
    LongContextReorder,
    MetadataReplacementPostProcessor,
    PrevNextNodePostprocessor,
    SentenceEmbeddingOptimizer,
    SimilarityPostprocessor,
)
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import ChatPromptTemplate, RichPromptTemplate
from llama_index.core.query_engine import (
    CustomQueryEngine,
    RetrieverQueryEngine,
    RetryQueryEngine,
    ToolRetrieverRouterQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.retrievers import (
    AutoMergingRetriever,
    BaseRetriever,
    QueryFusionRetriever,
    RecursiveRetriever,
    RouterRetriever,
    TransformRetriever,
)
from llama_index.core.schema import IndexNode, NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import QueryEngineTool, RetrieverTool
from llama_index.core.vector_stores import ExactMatchFilter, MetadataFilters, MetadataInfo, VectorStoreInfo
from llama_index.core.workflow import Event, StartEvent, StopEvent, Workflow, step
from llama_index.llms.seka import HighlightPostprocessor
from pydantic import BaseModel
from recipes import BORIS, GRETA, LYON, MARKET, QUESTION, Book, words

from seka_rag import highlighting

BOOK = Book("https://github.com/run-llama/llama_index/blob/main/docs/examples/", ".ipynb")
recipe = BOOK.recipe


class Words(BaseEmbedding):
    def _get_query_embedding(self, query: str) -> list[float]:
        return words(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return words(text)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return words(query)


class Scripted(CustomLLM):
    """A model beside ours that says what only a competent one would."""

    says: str

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=self.says)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        yield CompletionResponse(text=self.says, delta=self.says)


def notes() -> list[TextNode]:
    return [
        TextNode(text=text, id_=f"note {i}", metadata={"year": str(2020 + i)})
        for i, text in enumerate((BORIS, GRETA, MARKET))
    ]


def index(nodes: Sequence[Any] | None = None, **settings: Any) -> VectorStoreIndex:
    return VectorStoreIndex(notes() if nodes is None else list(nodes), embed_model=Words(), **settings)


def engine(retriever: Any, llm: Any, **settings: Any) -> RetrieverQueryEngine:
    return RetrieverQueryEngine.from_args(retriever, llm=llm, **settings)


# --- retrievers


@recipe("small pieces are found, whole parents are read", "retrievers/auto_merging_retriever")
def auto_merging(llm):
    parser = HierarchicalNodeParser.from_defaults(chunk_sizes=[128, 32])
    nodes = parser.get_nodes_from_documents([Document(text=f"{GRETA} {BORIS} {MARKET}")])
    storage = StorageContext.from_defaults()
    storage.docstore.add_documents(nodes)
    base = index(get_leaf_nodes(nodes), storage_context=storage).as_retriever(similarity_top_k=3)
    engine(AutoMergingRetriever(base, storage), llm).query(QUESTION)


@recipe("single sentences are found, their windows are read", "node_postprocessor/MetadataReplacementDemo")
def sentence_window(llm):
    parser = SentenceWindowNodeParser.from_defaults(window_size=1)
    made = index(parser.get_nodes_from_documents([Document(text=f"{MARKET} {GRETA}")]))
    after = [MetadataReplacementPostProcessor(target_metadata_key="window"), HighlightPostprocessor()]
    made.as_query_engine(llm=llm, similarity_top_k=1, node_postprocessors=after).query(QUESTION)


@recipe("summaries refer to the nodes that are read", "retrievers/recursive_retriever_nodes")
def recursive(llm):
    references = [
        IndexNode(text=text, index_id=f"note {i}") for i, text in enumerate(("Boris", "where Greta lives", "market"))
    ]
    found = index(references).as_retriever(similarity_top_k=1)
    known = {n.node_id: n for n in notes()}
    engine(RecursiveRetriever("vector", retriever_dict={"vector": found}, node_dict=known), llm).query(QUESTION)


@recipe("several retrievers, ranks joined", "retrievers/reciprocal_rerank_fusion")
def rank_fusion(llm):
    both = [index().as_retriever(similarity_top_k=1), index().as_retriever(similarity_top_k=3)]
    made = QueryFusionRetriever(both, llm=llm, num_queries=1, mode="reciprocal_rerank", use_async=False)
    engine(made, llm).query(QUESTION)


@recipe("a model chooses the retriever", "retrievers/router_retriever", note="Another model chooses")
def router_retriever(llm):
    tools = [RetrieverTool.from_defaults(index().as_retriever(similarity_top_k=k), description=f"{k}") for k in (1, 2)]
    choose = LLMSingleSelector.from_defaults(llm=Scripted(says='[{"choice": 1, "reason": "all"}]'))
    engine(RouterRetriever(selector=choose, retriever_tools=tools, llm=llm), llm).query(QUESTION)


@recipe("a model writes the filters", "vector_stores/chroma_auto_retriever", note="Another model writes them")
def auto_retriever(llm):
    info = VectorStoreInfo(
        content_info="notes", metadata_info=[MetadataInfo(name="year", type="str", description="of it")]
    )
    spec = '{"query": "Where does Greta live?", "filters": [{"key": "year", "value": "2021", "operator": "=="}]}'
    made = VectorIndexAutoRetriever(index(), vector_store_info=info, llm=Scripted(says=spec))
    engine(made, llm).query(QUESTION)


@recipe("filters by metadata", "vector_stores/SimpleIndexDemo")
def metadata_filters(llm):
    only = MetadataFilters(filters=[ExactMatchFilter(key="year", value="2021")])
    index().as_query_engine(llm=llm, filters=only).query(QUESTION)


@recipe(
    "a hypothetical answer is searched for",
    "query_transformations/HyDEQueryTransformDemo",
    note="Another model writes it; the user's question chooses the sentence",
)
def hyde(llm):
    transform = HyDEQueryTransform(llm=Scripted(says="Greta lives in Oslo."), include_original=True)
    TransformQueryEngine(index().as_query_engine(llm=llm), transform).query(QUESTION)


@recipe("the question is changed for the search alone", "query_transformations/query_transform_cookbook")
def transform_retriever(llm):
    transform = HyDEQueryTransform(llm=Scripted(says="Greta lives"), include_original=True)
    engine(TransformRetriever(index().as_retriever(), transform), llm).query(QUESTION)


@recipe("a retriever of your own", "query_engine/CustomRetrievers")
def own_retriever(llm):
    class Both(BaseRetriever):
        def _retrieve(self, query: QueryBundle) -> list[NodeWithScore]:
            found = index().as_retriever().retrieve(query)
            return [n for n in found if "Greta" in n.node.get_content()]

    engine(Both(), llm).query(QUESTION)


# --- indices


@recipe("all nodes are read", "query_engine/RouterQueryEngine")
def summary_index(llm):
    SummaryIndex(notes()).as_query_engine(llm=llm).query(QUESTION)


@recipe("keywords choose the nodes", "query_engine/CustomRetrievers")
def keyword_table(llm):
    SimpleKeywordTableIndex(notes(), llm=llm).as_query_engine(llm=llm).query(QUESTION)


@recipe("summaries of documents are searched", "index_structs/doc_summary/DocSummary", note="Another model writes them")
def document_summary(llm):
    made = DocumentSummaryIndex.from_documents(
        [Document(text=n.text, doc_id=n.node_id) for n in notes()],
        llm=Scripted(says="A note."),
        embed_model=Words(),
        response_synthesizer=get_response_synthesizer(llm=Scripted(says="A note.")),
    )
    made.as_query_engine(llm=llm, similarity_top_k=3).query(QUESTION)


@recipe(
    "an ingestion pipeline that writes summaries as metadata",
    "ingestion/advanced_ingestion_pipeline",
    note="The summaries are not marked",
)
def pipeline(llm):
    steps = [
        SentenceSplitter(chunk_size=64, chunk_overlap=0),
        SummaryExtractor(llm=Scripted(says="Greta lives in Oslo."), summaries=["self"]),
    ]
    nodes = IngestionPipeline(transformations=steps).run(documents=[Document(text=GRETA)])
    index(nodes).as_query_engine(llm=llm).query(QUESTION)


# --- what is done with nodes


def postprocessed(llm: Any, *after: Any, **settings: Any) -> Any:
    return (
        index()
        .as_query_engine(llm=llm, node_postprocessors=list(after), similarity_top_k=3, **settings)
        .query(QUESTION)
    )


@recipe("a model ranks the nodes", "node_postprocessor/LLMReranker-Gatsby", note="Another model ranks")
def llm_rerank(llm):
    postprocessed(llm, LLMRerank(llm=Scripted(says="Doc: 1, Relevance: 9"), top_n=1))


@recipe("nodes below a similarity are left out", "node_postprocessor/FileNodeProcessors")
def similarity(llm):
    postprocessed(llm, SimilarityPostprocessor(similarity_cutoff=0.1))


@recipe("a postprocessor of your own", "query_engine/custom_query_engine")
def own_postprocessor(llm):
    class Named(BaseNodePostprocessor):
        def _postprocess_nodes(self, nodes: Any, query_bundle: Any = None) -> Any:
            return [n for n in nodes if "market" not in n.node.get_content()]

    postprocessed(llm, Named(), LongContextReorder())


@recipe("sentences unlike the question are cut out of nodes", "node_postprocessor/OptimizerDemo")
def optimizer(llm):
    postprocessed(
        llm,
        SentenceEmbeddingOptimizer(
            embed_model=Words(), percentile_cutoff=0.5, tokenizer_fn=lambda t: re.split(r"(?<=\.) ", t)
        ),
    )


@recipe("the nodes before and after those that were found", "node_postprocessor/PrevNextPostprocessorDemo")
def prev_next(llm):
    chain = notes()
    for one, other in pairwise(chain):
        one.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=other.node_id)
        other.relationships[NodeRelationship.PREVIOUS] = RelatedNodeInfo(node_id=one.node_id)
    storage = StorageContext.from_defaults()
    storage.docstore.add_documents(chain)
    after = PrevNextNodePostprocessor(docstore=storage.docstore, num_nodes=1, mode="both")
    made = index(chain, storage_context=storage)
    made.as_query_engine(llm=llm, similarity_top_k=1, node_postprocessors=[after]).query(QUESTION)


# --- engines and prompts


@recipe("a query engine of your own, around a synthesizer", "query_engine/custom_query_engine")
def custom_engine(llm):
    class Own(CustomQueryEngine):
        retriever: BaseRetriever
        synthesizer: Any

        def custom_query(self, query_str: str) -> Any:
            return self.synthesizer.synthesize(query_str, self.retriever.retrieve(query_str))

    Own(retriever=index().as_retriever(), synthesizer=get_response_synthesizer(llm=llm)).query(QUESTION)


@recipe(
    "a query engine of your own, around a formatted prompt",
    "query_engine/custom_query_engine",
    note="`predict` in place of `complete(template.format(...))`, which tells nobody what was retrieved",
)
def custom_prompt(llm):
    template = PromptTemplate("Context:\n{context_str}\nQuestion: {query_str}\nAnswer:")

    class Own(CustomQueryEngine):
        retriever: BaseRetriever

        def custom_query(self, query_str: str) -> str:
            found = self.retriever.retrieve(query_str)
            return llm.predict(
                template, context_str="\n\n".join(n.node.get_content() for n in found), query_str=query_str
            )

    Own(retriever=index().as_retriever()).query(QUESTION)


@recipe(
    "response synthesis from the beginning",
    "low_level/response_synthesis",
    note="The prompt is written by hand, inside `highlighting(...)`",
)
def by_hand(llm):
    found = index().as_retriever().retrieve(QUESTION)
    text = "\n\n".join(n.get_content() for n in found)
    with highlighting([n.node for n in found], question=QUESTION):
        llm.complete(f"Context:\n{text}\nQuestion: {QUESTION}\nAnswer:")


@recipe("chat prompts of your own", "customization/prompts/chat_prompts")
def chat_prompts(llm):
    messages = [
        ChatMessage("Answer always, even if the context does not help.", role=MessageRole.SYSTEM),
        ChatMessage("Context:\n{context_str}\nAnswer the question: {query_str}"),
    ]
    index().as_query_engine(llm=llm, text_qa_template=ChatPromptTemplate(messages)).query(QUESTION)


@recipe("variables of other names, and a part that is filled in before", "prompts/advanced_prompts")
def mapped_prompt(llm):
    template = PromptTemplate(
        "In the manner of {tone}.\n{my_context}\n{my_query}",
        template_var_mappings={"context_str": "my_context", "query_str": "my_query"},
    ).partial_format(tone="a clerk")
    index().as_query_engine(llm=llm, text_qa_template=template).query(QUESTION)


@recipe("a template in Jinja", "prompts/structured_input")
def rich_prompt(llm):
    template = RichPromptTemplate("{% if context_str %}Context:\n{{ context_str }}{% endif %}\n{{ query_str }}")
    index().as_query_engine(llm=llm, text_qa_template=template).query(QUESTION)


@recipe(
    "tools that are retrieved, and the one that is chosen",
    "query_engine/RetrieverRouterQueryEngine",
    note="Another model chooses",
)
def retrieved_tools(llm):
    tools = [
        QueryEngineTool.from_defaults(index().as_query_engine(llm=llm), name=name, description=name)
        for name in ("homes", "works")
    ]
    objects = ObjectIndex.from_objects(tools, index_cls=VectorStoreIndex, embed_model=Words())
    found = objects.as_retriever(similarity_top_k=1)
    made = ToolRetrieverRouterQueryEngine(
        found, llm=llm, summarizer=get_response_synthesizer(llm=llm, response_mode="tree_summarize")
    )
    made.query(QUESTION)


@recipe("an answer that is tried again until it passes", "evaluation/RetryQuery", note="The judge is another model")
def retry(llm):
    from llama_index.core.evaluation import RelevancyEvaluator

    made = index().as_query_engine(llm=llm)
    RetryQueryEngine(made, RelevancyEvaluator(llm=Scripted(says="YES"))).query(QUESTION)


@recipe("an answer of a form", "structured_outputs/structured_outputs")
def structured(llm):
    class Home(BaseModel):
        """Where somebody lives."""

        city: Literal["Lyon", "Oslo"]

    llm.max_tokens = 120
    made = index().as_query_engine(llm=llm.as_structured_llm(Home), response_mode="compact")
    assert made.query(QUESTION).response.city in ("Lyon", "Oslo")


@recipe("a chat with context and a memory", "chat_engine/chat_engine_context", ((LYON,), (LYON,)))
def chat_with_memory(llm):
    memory = ChatMemoryBuffer.from_defaults(token_limit=600)
    made = ContextChatEngine.from_defaults(retriever=index().as_retriever(), llm=llm, memory=memory)
    made.chat(QUESTION)
    made.chat(QUESTION)


@recipe(
    "a chat that condenses the question, in pieces",
    "chat_engine/chat_engine_condense_plus_context",
    ((), (LYON,)),
    "The first call condenses; what it says is noise here, and the user's question chooses",
)
async def condense_plus(llm):
    made = index().as_chat_engine(chat_mode="condense_plus_context", llm=llm)
    history = [ChatMessage("Who is Greta?"), ChatMessage("A person.", role=MessageRole.ASSISTANT)]
    answer = await made.astream_chat(QUESTION, chat_history=history)
    assert [piece async for piece in answer.async_response_gen()] or True


# --- workflows


class Found(Event):
    nodes: list[NodeWithScore]


class Ranked(Event):
    nodes: list[NodeWithScore]


@recipe("a workflow of three steps: retrieve, rerank, synthesize", "workflow/rag")
async def workflow(llm):
    class Rag(Workflow):
        @step
        async def retrieve(self, event: StartEvent) -> Found:
            return Found(nodes=await index().as_retriever(similarity_top_k=3).aretrieve(event.query))

        @step
        async def rerank(self, event: Found) -> Ranked:
            return Ranked(nodes=event.nodes[:2])

        @step
        async def synthesize(self, event: Ranked) -> StopEvent:
            return StopEvent(result=await get_response_synthesizer(llm=llm).asynthesize(QUESTION, event.nodes))

    await Rag().run(query=QUESTION)


@recipe(
    "corrective RAG: irrelevant nodes are left out by a judge",
    "workflow/corrective_rag_pack",
    note="Another model judges",
)
async def corrective(llm):
    judge = Scripted(says="yes")

    class Corrective(Workflow):
        @step
        async def retrieve(self, event: StartEvent) -> Found:
            return Found(nodes=await index().as_retriever(similarity_top_k=2).aretrieve(event.query))

        @step
        async def grade(self, event: Found) -> Ranked:
            ask = PromptTemplate("Document: {context_str}\nQuestion: {query_str}\nRelevant?")
            said = [judge.predict(ask, context_str=n.get_content(), query_str=QUESTION) for n in event.nodes]
            return Ranked(nodes=[n for n, yes in zip(event.nodes, said, strict=True) if yes == "yes"])

        @step
        async def answer(self, event: Ranked) -> StopEvent:
            made = SummaryIndex([n.node for n in event.nodes])
            return StopEvent(result=await made.as_query_engine(llm=llm).aquery(QUESTION))

    await Corrective().run(query=QUESTION)
