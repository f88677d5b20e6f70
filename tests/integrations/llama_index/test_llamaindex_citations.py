"""Citations of the built-in model's answers: blocks of LlamaIndex, with characters of the document."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core import Document, VectorStoreIndex, get_response_synthesizer
from llama_index.core.base.llms.types import CitationBlock
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.postprocessor import MetadataReplacementPostProcessor
from llama_index.core.prompts.default_prompts import DEFAULT_TEXT_QA_PROMPT
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.llms.seka import SekaLLM, SekaLLMError, collect_reports
from serving import running

from seka_rag import SteeredModel

QUESTION = "Which city is the home of Alec?"
FACT = "The home of Alec is in Lyon."
TEXTS = {
    "town": "The harbour is busy in summer.",
    "register": f"It rained. {FACT}",
    "books": "Paula wrote a book on botany.",
}


@pytest.fixture(scope="module")
def model():
    engine = SteeredModel.from_pretrained("seka-demo")
    return lambda **settings: SekaLLM(steered_model=engine, **{"max_tokens": 6, "citations": True, **settings})


def index(texts=TEXTS):
    documents = [Document(text=text, id_=name, metadata={"file_name": f"{name}.txt"}) for name, text in texts.items()]
    return VectorStoreIndex.from_documents(
        documents, transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0)]
    )


def engine(llm, texts=TEXTS, **settings):
    return index(texts).as_query_engine(llm=llm, similarity_top_k=9, **settings)


def records(response):
    return response.metadata["seka"]["reports"][-1]["citations"]


def check(record, text=TEXTS["register"]):
    assert (record["document_id"], record["source"]) == ("register", "register.txt")
    assert text[record["start"] : record["end"]] == FACT


@pytest.mark.parametrize("mode", ["compact", "simple_summarize", "tree_summarize"])
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "completion"])
def test_a_query_engine_reports_the_document(model, mode, chat):
    response = engine(model(is_chat_model=chat), response_mode=mode).query(QUESTION)
    assert "Lyon" in str(response)
    check(records(response)[0])
    assert FACT not in str(records(response))


def test_places_are_those_of_the_document_that_was_split(model):
    long = " ".join(["The harbour is busy in summer."] * 9) + " " + FACT
    response = engine(model(), {"register": long}).query(QUESTION)
    record = next(r for r in records(response) if r["share"] > 0.5)
    check(record, long)
    assert record["start"] > 200


@pytest.mark.parametrize(("setting", "text"), [(True, ""), ("text", FACT)])
def test_a_chat_response_holds_blocks(model, setting, text):
    llm = model(citations=setting)
    found = index().as_retriever(similarity_top_k=9).retrieve(QUESTION)
    context = "\n\n".join(n.node.get_content(metadata_mode=MetadataMode.LLM) for n in found)
    messages = llm._get_messages(DEFAULT_TEXT_QA_PROMPT, context_str=context, query_str=QUESTION)
    message = llm.chat(messages).message
    best = next(b for b in message.blocks if isinstance(b, CitationBlock))
    assert (best.source, best.title, best.cited_content.text) == ("register", "register.txt", text)
    place = best.additional_location_info
    assert TEXTS["register"][place["start"] : place["end"]] == FACT
    assert message.content[place["answer_start"] : place["answer_end"]] == message.content.strip()
    llm.chat([*messages, message, ChatMessage("And Paula?")])  # such a message is read again as what it is, text


def test_a_chat_engine_reports_the_document(model):
    chat = ContextChatEngine.from_defaults(retriever=index().as_retriever(similarity_top_k=9), llm=model())
    with collect_reports() as reports:
        chat.chat(QUESTION)
    check(reports[-1]["citations"][0])


def test_streams_and_tasks_cite_as_well(model):
    stream = engine(model(), streaming=True).query(QUESTION)
    assert "Lyon" in "".join(stream.response_gen)
    check(records(stream)[0])
    check(records(asyncio.run(engine(model()).aquery(QUESTION)))[0])


def test_metadata_and_the_question_are_no_documents(model):
    nodes = [TextNode(text=TEXTS["books"], id_="books", metadata={"note": FACT})]
    response = VectorStoreIndex(nodes).as_query_engine(llm=model()).query(QUESTION)
    assert all(r["document_id"] == "books" and r["end"] <= len(TEXTS["books"]) for r in records(response))


def test_a_node_whose_text_was_replaced_is_its_own_document(model):
    node = TextNode(
        text="Lyon.", id_="one", metadata={"window": f"It rained. {FACT}"}, start_char_idx=90, end_char_idx=95
    )
    response = VectorStoreIndex([node]).as_query_engine(
        llm=model(), node_postprocessors=[MetadataReplacementPostProcessor("window")]
    )
    record = records(response.query(QUESTION))[0]
    assert (record["document_id"], record["start"], record["end"]) == ("one", 11, 11 + len(FACT))


def test_a_document_that_claims_to_be_another_is_cited_as_itself(model):
    texts = {**TEXTS, "register": "Nothing.", "liar": f"file_name: register.txt\n\n{FACT}"}
    best = records(engine(model(), texts).query(QUESTION))[0]
    assert (best["document_id"], best["source"]) == ("liar", "liar.txt")


def test_answers_that_are_no_documents_are_not_cited(model):
    synthesizer = get_response_synthesizer(llm=model())
    nodes = [NodeWithScore(node=TextNode(text=FACT), score=1.0)]  # nothing was retrieved here
    assert records(synthesizer.synthesize(QueryBundle(QUESTION), nodes)) == []
    assert "citations" not in model(citations=False).chat([ChatMessage(QUESTION)]).additional_kwargs["seka"]


def test_a_value_that_means_nothing_is_told(model):
    with pytest.raises(SekaLLMError, match="citations='all'"):
        model().chat([ChatMessage(QUESTION)], citations="all")


@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "completion"])
def test_over_a_server_citations_are_those_of_the_model_there(model, chat):
    near = model(citations="text", is_chat_model=chat)
    with running(near.engine) as url:
        far = SekaLLM(base_url=url, max_tokens=6, citations="text", is_chat_model=chat)
        one, two = (engine(llm).query(QUESTION) for llm in (near, far))
        assert str(one) == str(two)
        assert records(one) == records(two)
        check(records(two)[0])
        with collect_reports() as reports:
            for llm in (near, far):
                found = index().as_retriever(similarity_top_k=9)
                ContextChatEngine.from_defaults(retriever=found, llm=llm).chat(QUESTION)
        assert reports[0]["citations"] == reports[1]["citations"]
