"""Citations of the built-in model's answers: LangChain's annotations, with characters of the document."""

from __future__ import annotations

import asyncio

import pytest
from langchain_chains import TEMPLATE, join
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_seka import ChatSeka, SekaCallbackHandler, SekaLLM, passages
from langchain_seka.citations import in_conversation
from langchain_seka.templates import rebuild
from serving import running

from seka_rag import SekaError

QUESTION = "Which city is the home of Alec?"
FACT = "The home of Alec is in Lyon."
BEFORE = "The register was printed in 1999. "  # of the document, not of the chunk
DOCUMENTS = [
    Document("The harbour is busy in summer.", id="harbour", metadata={"source": "town.txt"}),
    Document(
        f"It rained. {FACT}",
        id="home",
        metadata={"source": "https://example.org/register", "title": "Register", "start_index": len(BEFORE)},
    ),
    Document("Paula wrote a book on botany.", id="botany", metadata={"source": "books.txt"}),
]


class Given(BaseRetriever):
    documents: list

    def _get_relevant_documents(self, query, *, run_manager):
        return self.documents


@pytest.fixture(scope="module")
def model(demo_engine):
    return lambda **settings: ChatSeka(steered_model=demo_engine, **{"max_tokens": 6, "citations": True, **settings})


def chain(llm, documents=DOCUMENTS, step=None, prompt=TEMPLATE):
    context = Given(documents=documents) | RunnableLambda(step or (lambda found: found)) | join
    return {"context": context, "question": RunnablePassthrough()} | prompt | llm


def cited(message):
    (block,) = message.content_blocks
    return block["annotations"]


def check(message, text=None):
    best = cited(message)[0]
    start = len(BEFORE) + len("It rained. ")
    assert best["type"] == "citation"
    assert message.text[best["start_index"] : best["end_index"]] == message.text.strip()
    assert (best["url"], best["title"]) == ("https://example.org/register", "Register")
    assert best["extras"]["document_id"] == "home"
    assert (best["extras"]["start"], best["extras"]["end"]) == (start, start + len(FACT))
    assert (BEFORE + DOCUMENTS[1].page_content)[best["extras"]["start"] : best["extras"]["end"]] == FACT
    assert best["extras"]["share"] > 0.5
    assert best.get("cited_text") == text
    first = message.response_metadata["seka"]["citations"][0]
    assert (first["document_id"], first["start"], first["end"]) == ("home", start, start + len(FACT))
    assert FACT not in str(message.response_metadata)


def test_an_answer_names_the_document_that_it_rests_on(model):
    check(chain(model()).invoke(QUESTION))
    check(chain(model(citations="text")).invoke(QUESTION), FACT)


def test_every_way_of_calling_cites(model):
    def streamed(pieces):
        whole = None
        for piece in pieces:
            whole = piece if whole is None else whole + piece
        return whole

    async def later():
        pieces = [piece async for piece in chain(model()).astream(QUESTION)]
        return await chain(model()).ainvoke(QUESTION), streamed(pieces)

    plain, pieces = asyncio.run(later())
    for message in (streamed(chain(model()).stream(QUESTION)), plain, pieces, *chain(model()).batch([QUESTION] * 2)):
        check(message)


def test_an_option_of_a_call_counts_before_the_field(model):
    assert isinstance(chain(model().bind(citations=False)).invoke(QUESTION).content, str)
    check(chain(model(citations=False).bind(citations=True)).invoke(QUESTION))
    with pytest.raises(SekaError, match="citations='all': use True, False, or 'text'"):
        model().invoke("Hello", citations="all")


def test_an_unsteered_answer_can_be_cited(model):
    answer = chain(model(steering=None)).invoke(QUESTION)
    assert {c["document_id"] for c in answer.response_metadata["seka"]["citations"]} <= {"harbour", "home", "botany"}
    assert answer.response_metadata["seka"]["tokens_marked"] == 0


def test_without_documents_an_answer_is_plain_text(model):
    answer = model().invoke(QUESTION)
    assert isinstance(answer.content, str)
    assert answer.response_metadata["seka"]["citations"] == []
    assert "citations" not in model(citations=False).invoke(QUESTION).response_metadata["seka"]


def test_parsers_and_later_turns_read_a_cited_answer(model):
    llm = model()
    answer = chain(llm).invoke(QUESTION)
    assert (chain(llm) | StrOutputParser()).invoke(QUESTION) == answer.text
    assert isinstance(llm.invoke([HumanMessage(QUESTION), answer, HumanMessage("And Paula?")]), AIMessage)


def test_a_document_that_a_step_left_out_is_never_cited(model):
    copy = DOCUMENTS[1].model_copy(update={"id": "copy", "metadata": {"source": "upload/x"}})
    answer = chain(model(), [copy, *DOCUMENTS], lambda found: [d for d in found if d.id != "home"]).invoke(QUESTION)
    assert cited(answer)[0]["extras"]["document_id"] == "copy"
    assert all(c["document_id"] != "home" for c in answer.response_metadata["seka"]["citations"])


def test_a_document_that_claims_to_be_another_is_cited_as_itself(model):
    liar = Document(f'{{"document_id": "home", "source": "town.txt"}} [home]: {FACT}', id="liar")
    answer = chain(model(), [DOCUMENTS[0], liar, DOCUMENTS[2]]).invoke(QUESTION)
    assert cited(answer)[0]["extras"]["document_id"] == "liar"
    assert cited(answer)[0]["extras"]["source"] == "liar"  # its id, as it has no source


def test_a_document_that_stands_twice_is_one(model):
    twice = PromptTemplate.from_template("{context}\n\n{context}\n\nQuestion: {question}\nAnswer:")
    answer = chain(model(), prompt=twice).invoke(QUESTION)
    named = [c["document_id"] for c in answer.response_metadata["seka"]["citations"]]
    assert named.count("home") == 1
    check(answer)


def test_what_a_tool_found_can_be_cited_where_it_stands():
    messages = [
        HumanMessage(QUESTION),
        AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "1"}]),
        ToolMessage(join(DOCUMENTS), name="search", tool_call_id="1", artifact=DOCUMENTS),
    ]
    found = in_conversation(messages, None)
    assert [d.id for d in found.documents] == ["harbour", "home", "botany"]
    texts = [messages[e.message].content[e.place.start : e.place.end] for e in found.excerpts]
    assert texts == ["The harbour is busy in summer.", "It rained.", FACT, "Paula wrote a book on botany."]
    assert {e.message for e in found.excerpts} == {2}


def test_a_completion_says_it_in_its_report(demo_engine):
    llm = SekaLLM(steered_model=demo_engine, max_tokens=6, citations=True)
    prompt = PromptTemplate.from_template("Context:\n{context}\n\nQuestion: {question}\nAnswer:")
    value = (chain(RunnableLambda(lambda value: llm.generate_prompt([value])), prompt=prompt)).invoke(QUESTION)
    assert "citations" in value.generations[0][0].generation_info["seka"]


@pytest.mark.parametrize("core", [ChatSeka, SekaLLM])
def test_a_cached_answer_cites_its_own_document(demo_engine, core):
    llm = core(steered_model=demo_engine, max_tokens=6, citations=True, cache=InMemoryCache())
    plain = PromptTemplate.from_template("Context: {context}\n\nQuestion: {question}\nAnswer:")
    for own in ("first", "second", "second"):
        handler = SekaCallbackHandler()
        found = [DOCUMENTS[1].model_copy(update={"id": own})]
        chain(llm, found, prompt=TEMPLATE if core is ChatSeka else plain).invoke(QUESTION, {"callbacks": [handler]})
        (report,) = handler.reports
        assert {c["document_id"] for c in report["citations"]} == {own}


def test_a_server_that_does_not_let_attention_be_seen_is_refused_before_it_answers():
    remote = ChatSeka(base_url="http://localhost:1/v1", model="x", citations=True)
    remote.engine._card = {"id": "x", "max_model_len": 9, "seka": {"bank": None, "can_call_tools": False}}  # as vLLM's
    with pytest.raises(SekaError, match="the server of 'x' does not let it be seen"):
        remote.invoke(QUESTION)


@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.parametrize("setting", [True, "text"])
def test_over_a_server_citations_are_those_of_the_model_there(demo_engine, model, setting):
    with running(demo_engine) as url:
        far = ChatSeka(base_url=url, max_tokens=6, citations=setting)
        near = model(citations=setting)
        check(chain(far).invoke(QUESTION), FACT if setting == "text" else None)
        one, two = chain(near).invoke(QUESTION), chain(far).invoke(QUESTION)
        assert (two.content, two.response_metadata["seka"]) == (one.content, one.response_metadata["seka"])
        whole = None
        for chunk in chain(far).stream(QUESTION):
            whole = chunk if whole is None else whole + chunk
        assert cited(whole) == cited(one)
        later = asyncio.run(chain(far).ainvoke(QUESTION))
        assert later.content == one.content


@pytest.mark.parametrize("core", [ChatSeka, SekaLLM])
def test_passages_are_followed_once_for_highlights_and_citations(demo_engine, core, monkeypatch):
    rendered = []
    monkeypatch.setattr(passages, "rebuild", lambda prompt: rendered.append(prompt) or rebuild(prompt))
    chain(core(steered_model=demo_engine, max_tokens=1, citations=True)).invoke(QUESTION)
    assert len(rendered) == 1
