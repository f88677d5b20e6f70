"""Which document stands in the prompt, where several begin alike, are equal, or were left out by the chain."""

from __future__ import annotations

import pytest
from growth import calls
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_seka import ChatSeka
from langchain_seka.capture import Evidence
from langchain_seka.highlights import follow_messages, follow_text
from langchain_seka.passages import place_in_messages
from langchain_seka.retrievals import Retrieval

from seka_rag.highlight.select import AllPassages
from seka_rag.highlight.sentences import Sentences
from seka_rag.highlight.trust import Trusted, TrustPolicy

TEMPLATE = ChatPromptTemplate.from_messages([("system", "Use the notes."), ("human", "{context}\n\n{question}")])
QUESTION = "Where is the workshop of Greta?"
OLD = "The list of workshops has it: the workshop of Greta is in Lisbon, on the second floor of the old mill."
NEW = "The list of workshops has it: the workshop of Greta is in Vienna."
HANDBOOK = TrustPolicy(sources=["handbook/*"])


class Given(BaseRetriever):
    """Returns what it was made with."""

    documents: list[Document]

    def _get_relevant_documents(self, query, *, run_manager):
        return self.documents


def document(text, source):
    return Document(page_content=text, metadata={"source": source})


def run(chat, documents, step=lambda docs: docs, separator="\n\n", hidden=False):
    """What is marked: text and source of each span; and the report.

    Args:
        step: what the chain does with the documents.
        hidden: do it in one function with the joining, where LangChain sees nothing of it.
    """
    seen = []
    spy = RunnableLambda(lambda p: (seen.extend(p.to_messages()), p)[1])
    join = RunnableLambda(lambda docs: separator.join(d.page_content for d in docs))
    kept = RunnableLambda(lambda docs: join.func(step(docs))) if hidden else RunnableLambda(step) | join
    chain = {"context": Given(documents=documents) | kept, "question": RunnablePassthrough()} | TEMPLATE | spy | chat
    report = chain.invoke(QUESTION).response_metadata["seka"]
    marked = [(seen[h["message"]].text[h["start"] : h["end"]], h["source"]) for h in report["highlights"]]
    starts = [h["start"] for h in report["highlights"]]
    assert starts == sorted(starts)
    return marked, report


def test_the_kept_one_of_two_that_begin_alike(chat):
    documents = [document(OLD, "2019"), document(NEW, "2024")]
    assert run(chat, documents, lambda docs: docs[1:])[0] == [(NEW, "2024")]
    assert run(chat, documents, lambda docs: docs[:1])[0] == [(OLD, "2019")]
    assert run(chat, documents[::-1], lambda docs: docs[:1])[0] == [(NEW, "2024")]
    assert run(chat, documents, lambda docs: docs[::-1])[0] == [(NEW, "2024"), (OLD, "2019")]


def test_trust_does_not_pass_to_an_upload_that_begins_alike(chat):
    chat.highlighter = Trusted(Sentences(), HANDBOOK)
    trusted, upload = document(NEW, "handbook/list"), document(NEW[:-8] + "Oslo, says somebody.", "upload/x")
    longer = document(f"{NEW} No: since Monday it is in Oslo.", "upload/y")
    for other in (upload, longer):
        for documents in ([trusted, other], [other, trusted]):
            assert run(chat, documents)[0] == [(NEW, "handbook/list")]
            assert run(chat, documents, lambda docs: [d for d in docs if "upload" not in d.metadata["source"]])[0] == [
                (NEW, "handbook/list")
            ]
            kept = run(chat, documents, lambda docs: [d for d in docs if "upload" in d.metadata["source"]])
            assert kept[0] == []


@pytest.mark.parametrize("order", [1, -1])
def test_the_trusted_one_of_two_equal_documents(chat, order):
    chat.highlighter = Trusted(Sentences(), HANDBOOK)
    documents = [document(NEW, "upload/x"), document(NEW, "handbook/a")][::order]
    marked, report = run(chat, documents)
    assert marked == [(NEW, "handbook/a")]
    start = report["highlights"][0]["start"]
    assert start == (0 if order < 0 else len(NEW) + 2)  # the handbook's copy, where it stands


def test_equal_documents_are_all_marked_each_with_its_source(chat):
    documents = [document(NEW, f"copy {i}") for i in range(5)]
    assert run(chat, documents)[0] == [(NEW, f"copy {i}") for i in range(5)]
    assert run(chat, documents, lambda docs: docs[2:3])[0] == [(NEW, "copy 2")]
    one = run(chat, documents, lambda docs: docs[2:3], hidden=True)[
        0
    ]  # which one is not known: its place stands for all
    assert one == [(NEW, f"copy {i}") for i in range(5)]


@pytest.mark.parametrize("order", [1, -1])
def test_a_copy_has_no_trust_from_what_it_copies(chat, order):
    """A chain that keeps one of two equal documents: by a step of its own it is known which; else neither is marked."""
    chat.highlighter = Trusted(Sentences(), HANDBOOK)
    documents = [document(NEW, "upload/x"), document(NEW, "handbook/a")][::order]

    def keep(kind):
        return lambda docs: [d for d in docs if d.metadata["source"].startswith(kind)]

    assert run(chat, documents, keep("handbook"))[0] == [(NEW, "handbook/a")]
    assert run(chat, documents, keep("upload"))[0] == []
    for kind in ("handbook", "upload"):
        marked, report = run(chat, documents, keep(kind), hidden=True)
        assert marked == []
        assert any("nothing tells which of them stands in the prompt" in w for w in report["warnings"])
    again = [document(NEW, "handbook/b"), document(NEW, "handbook/a")]
    assert {s for _, s in run(chat, again, lambda d: d[:1], hidden=True)[0]} == {"handbook/a", "handbook/b"}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("content", ["That list is out of date.", ""])
def test_a_title_takes_no_highlight_from_the_text_that_it_repeats(chat, order, content):
    """Nothing tells the title from the text, also where nothing else of its document is there."""
    chat.highlighter = Trusted(Sentences(), HANDBOOK)
    upload = Document(page_content="That list is out of date.", metadata={"source": "upload/x", "title": NEW})
    documents = [Document(page_content=NEW, metadata={"source": "handbook/a", "title": "Workshops"}), upload]

    def titled(docs):
        texts = [content if d.metadata["source"] == "upload/x" else d.page_content for d in docs[::order]]
        titles = [d.metadata["title"] for d in docs[::order]]
        return [document("\n".join(pair), "") for pair in zip(titles, texts, strict=True)]

    marked, report = run(chat, documents, titled, hidden=True)
    assert marked == []
    assert any("stands more often than it was retrieved" in w for w in report["warnings"])
    chat.highlighter = "sentences"
    assert run(chat, documents, titled, hidden=True)[0] == [(NEW, "handbook/a")]


def test_a_step_that_writes_documents_drops_none(chat):
    """What it returns is not what was retrieved, so it says nothing of that; nor does a branch beside."""
    chat.highlighter = Trusted(Sentences(), HANDBOOK)
    documents = [document(NEW, "upload/x"), document(NEW, "handbook/a")]
    written = run(chat, documents, lambda docs: [document(NEW, "written")])
    assert written[0] == []
    both = {"context": RunnableLambda(lambda d: d[1:]), "other": RunnableLambda(lambda d: d[:1])}
    beside = RunnableLambda(lambda state: "\n\n".join(d.page_content for d in state["other"]))
    chain = {"context": Given(documents=documents) | both | beside, "question": RunnablePassthrough()} | TEMPLATE | chat
    assert chain.invoke(QUESTION).response_metadata["seka"]["highlights"] == []


def test_a_copy_changes_nothing_elsewhere(chat):
    """A document that is made of others, quotes one, or ends with the beginning of the next."""
    chat.highlighter = Trusted(AllPassages(), HANDBOOK)
    one, two = "Greta has a workshop in Vienna.", "It opens at nine, and closes at noon."
    trusted = [document(one, "handbook/1"), document(two, "handbook/2")]
    for text in (f"{one}\n\n{two}", f"{one} It opens", f"They say: {one}", one, f"{one} {two} {one}"):
        copy = document(text, "upload/x")
        for documents in ([copy, *trusted], [*trusted, copy], [trusted[0], copy, trusted[1]]):
            without = run(chat, documents, lambda docs: [d for d in docs if d.metadata["source"] != "upload/x"])[0]
            assert without == [(one, "handbook/1"), (two, "handbook/2")], text
            hidden = run(
                chat, documents, lambda docs: [d for d in docs if "upload" not in d.metadata["source"]], " | ", True
            )
            assert (two, "handbook/2") in hidden[0]
            marked = run(chat, documents)[0]
            assert sorted(marked, key=lambda m: m[1]) == [(one, "handbook/1"), (two, "handbook/2")], text


def test_a_document_that_is_cut_at_a_mark(chat):
    cut = run(chat, [document(OLD, "a")], lambda docs: [document(d.page_content[:70] + "...", "") for d in docs])[0]
    assert cut == [(OLD[:70], "a")]
    gone_on = run(
        chat, [document(OLD, "a")], lambda docs: [document(d.page_content[:70] + " and more", "") for d in docs]
    )
    assert gone_on[0] == []


def test_a_document_that_two_retrievers_found_counts_once(chat):
    both = RunnableLambda(
        lambda q: Given(documents=[document(NEW, "a")]).invoke(q) + Given(documents=[document(NEW, "a")]).invoke(q)
    )
    seen = []
    spy = RunnableLambda(lambda p: (seen.extend(p.to_messages()), p)[1])
    joined = both | (lambda docs: docs[0].page_content)
    report = ({"context": joined, "question": RunnablePassthrough()} | TEMPLATE | spy | chat).invoke(QUESTION)
    assert len(report.response_metadata["seka"]["highlights"]) == 1


class TestManyChainsOfOneRoot:
    """Each of many documents is graded by a call of its own."""

    def chain(self, model, n):
        documents = [
            document(f"Note {i}: the workshop of Greta has {i} windows. " + "It rained. " * 20, f"note {i}")
            for i in range(n)
        ]
        split = RunnableLambda(lambda docs: [{"context": d.page_content, "question": QUESTION} for d in docs])
        return Given(documents=documents) | split | (TEMPLATE | model).map()

    def test_each_has_its_own(self, chat):
        answers = self.chain(chat, 12).invoke(QUESTION)
        marked = [{h["source"] for h in m.response_metadata["seka"]["highlights"]} for m in answers]
        assert marked == [{f"note {i}"} for i in range(12)]

    def test_the_work_is_linear(self, engine, monkeypatch):
        """What is done beside the model's own work."""
        chat = ChatSeka(steered_model=engine, max_tokens=1)
        answer = engine.chat([{"role": "user", "content": "Hello"}], max_new_tokens=1)
        monkeypatch.setattr(engine, "chat", lambda messages, **options: answer)
        work = {}
        for n in (20, 80):
            chain = self.chain(chat, n)
            chain.invoke(QUESTION)
            work[n] = calls(lambda chain=chain: chain.invoke(QUESTION))
        assert work[80] < 8 * work[20]  # 4 if it is linear, 64 if cubic


class TestSeveralVariables:
    """Passages that came in through more than one variable of a prompt."""

    NOTE = "The bakery opens at seven."
    TWO = ChatPromptTemplate.from_template("{context}\n\nAgain:\n{notes}\n\nQuestion: {question}")

    def marked(self, chat, notes, documents=None):
        """What is marked, with where it begins; and the message."""
        seen = []
        spy = RunnableLambda(lambda p: (seen.extend(p.to_messages()), p)[1])
        documents = documents or [document(NEW, "2024"), document(self.NOTE, "town")]
        given = Given(documents=documents) | RunnableLambda(lambda docs: "\n".join(d.page_content for d in docs))
        chain = {"context": given, "notes": given | notes, "question": RunnablePassthrough()} | self.TWO | spy | chat
        report = chain.invoke(QUESTION).response_metadata["seka"]
        return [(h["start"], h["end"], h["source"]) for h in report["highlights"]], seen[0].text, report

    @pytest.mark.parametrize("repeat", [lambda text: text, lambda text: f"You said: {text}"])
    def test_nothing_tells_which_of_two_is_the_evidence(self, chat, repeat):
        spans, _, report = self.marked(chat, RunnableLambda(repeat))
        assert spans == []
        assert any("fit several prompt variables" in w for w in report["warnings"])

    def test_one_variable_twice_is_marked_in_both_places(self, chat, monkeypatch):
        twice = "{context}\n\nAgain:\n{context}\n{notes}\n\nQuestion: {question}"
        monkeypatch.setattr(type(self), "TWO", ChatPromptTemplate.from_template(twice))
        spans, text, report = self.marked(chat, RunnableLambda(lambda text: "Be brief."))
        first, second = text.index(NEW), text.rindex(NEW)
        assert first < second
        assert spans == [(first, first + len(NEW), "2024"), (second, second + len(NEW), "2024")]
        assert not report["warnings"]

    def test_the_one_with_more_passages_is(self, chat):
        spans, text, _ = self.marked(chat, RunnableLambda(lambda text: f"You said: {NEW}"))
        assert spans == [(text.index(NEW), text.index(NEW) + len(NEW), "2024")]


def test_where_a_passage_stands_is_known_for_one_way_of_following_only(chat):
    """Messages and a completion of one text may be made by one template, and are followed apart."""
    evidence = Evidence((Retrieval(QUESTION, (document(NEW, "2024"),)),), ())
    targets = [("text", NEW)]
    one = place_in_messages(targets, evidence, follow_text)
    assert place_in_messages(targets, evidence, follow_text) is one
    assert place_in_messages(targets, evidence, follow_messages) is not one
    assert [found.passage.text for found in one.passages] == [NEW]
