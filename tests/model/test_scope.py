"""with highlighting(documents): in plain scripts, wherever the prompt is made."""

import asyncio

import pytest
from tiny import demo_tokenizer

from seka_rag import Passage, Prompt, Seka, highlighting
from seka_rag.errors import DocumentError, SteeringError
from seka_rag.highlight.select import AllPassages
from seka_rag.highlight.trust import Trusted, TrustPolicy
from seka_rag.model.scope import no_highlighting, open_highlighting

DOCUMENT = "Alec moved to Lyon last year."


def marked(tokens):
    return "".join(
        demo_tokenizer().decode([i for i, w in zip(tokens.ids, tokens.weights, strict=True) if w > 0]).split()
    )


def test_a_document_is_highlighted_where_it_stands(steered):
    prompt = f"Context: {DOCUMENT}\nWhere does Alec live?"
    with highlighting([DOCUMENT]) as scope:
        tokens = steered.tokenize(prompt)
        answer = steered.generate(prompt, max_new_tokens=5, steering=Seka(gain=5.0))
    assert marked(tokens) == DOCUMENT.replace(" ", "")
    by_hand = steered.generate(Prompt(prompt).highlight(DOCUMENT), max_new_tokens=5, steering=Seka(gain=5.0))
    assert answer == by_hand
    assert answer.text != steered.generate(prompt, max_new_tokens=5).text
    assert (scope.prompts, scope.marked, scope.ambiguous) == (2, 2, 0)
    assert marked(steered.tokenize(prompt)) == ""


@pytest.mark.parametrize("framework", ["langchain_core.documents", "llama_index.core.schema"])
def test_one_document_of_a_framework(steered, framework):
    module = pytest.importorskip(framework)
    document = module.Document(page_content=DOCUMENT) if "lang" in framework else module.TextNode(text=DOCUMENT)
    with highlighting(document):
        assert marked(steered.tokenize(f"Context: {DOCUMENT}\nWhere?")) == DOCUMENT.replace(" ", "")


def test_a_question_chooses_the_sentence(steered):
    passage = Passage("Alec plays the violin. " + DOCUMENT, source="a")
    with highlighting([passage], question="Where did Alec move last year?"):
        assert marked(steered.tokenize("Notes: " + passage.text)) == DOCUMENT.replace(" ", "")


def test_conversations(steered):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": f"{DOCUMENT} Where?"},
        {"role": "assistant", "content": DOCUMENT},
    ]
    with highlighting([DOCUMENT]):
        assert marked(steered.tokenize_chat(messages)) == DOCUMENT.replace(" ", "")


def test_a_copy_of_another_message_is_not_followed(steered):
    messages = [{"role": "system", "content": DOCUMENT}, {"role": "user", "content": f"{DOCUMENT} Where?"}]
    with highlighting([DOCUMENT, "Where?"]) as scope:
        assert marked(steered.tokenize_chat(messages)) == "Where?"
    assert scope.ambiguous == 1


def test_documents_of_one_text_have_a_place_each(steered):
    """As a retriever returns them. One that was given once and stands twice may be a copy that somebody else wrote."""
    twice, once = f"1. {DOCUMENT} 2. {DOCUMENT} Where?", DOCUMENT.replace(" ", "")
    handbook, upload = Passage(DOCUMENT, source="handbook/a"), Passage(DOCUMENT, source="upload/x")
    with highlighting([upload, handbook]) as scope:
        assert [span.source for span in spans_in(scope, twice)] == ["upload/x", "handbook/a"]
        assert marked(steered.tokenize(twice)) == 2 * once
        assert {span.source for span in spans_in(scope, DOCUMENT)} == {"upload/x", "handbook/a"}
    with highlighting([DOCUMENT]) as scope:
        assert marked(steered.tokenize(DOCUMENT)) == once
        assert marked(steered.tokenize(twice)) == ""
    assert scope.ambiguous == 1
    policy = Trusted(AllPassages(), TrustPolicy(sources=["handbook/*"]))
    with highlighting([upload, handbook], highlighter=policy) as scope:
        assert [span.start for span in spans_in(scope, twice)] == [twice.rindex(DOCUMENT)]
        assert spans_in(scope, DOCUMENT) == ()  # nothing tells whose it is


def spans_in(scope, text):
    return scope.find([text])[0]


def test_own_highlights_come_first(steered):
    with highlighting([DOCUMENT]) as scope:
        assert marked(steered.tokenize(Prompt(f"{DOCUMENT} Where?").highlight("Where"))) == "Where"
    assert scope.prompts == 0


def test_nothing_found_is_an_error(steered):
    with pytest.raises(SteeringError, match="none of 1 documents"):
        with highlighting([DOCUMENT]):
            steered.tokenize("Where does Alec live?")
    prompt = f"{DOCUMENT} Where does Alec live?"
    with pytest.raises(SteeringError, match="the highlighter chose nothing in 1 documents"):
        with highlighting([DOCUMENT], question="When does the ferry leave?"):
            steered.tokenize(prompt)
    with pytest.raises(SteeringError, match="chose nothing in 1 documents: TrustPolicy: its source is not on the list"):
        with highlighting([DOCUMENT], highlighter=Trusted(AllPassages(), TrustPolicy(sources=["handbook/*"]))):
            steered.tokenize(prompt)
    with highlighting([DOCUMENT]):
        pass
    with pytest.raises(ZeroDivisionError):
        with highlighting([DOCUMENT]):
            steered.tokenize(str(1 / 0))
    with pytest.raises(DocumentError):
        with highlighting([3]):
            pass


async def test_tasks_do_not_see_each_others_documents(steered):
    async def ask(name):
        document = f"{name} moved to Lyon."
        with highlighting([document]):
            await asyncio.sleep(0.01)
            return marked(await asyncio.to_thread(steered.tokenize, "Alec moved to Lyon. Greta moved to Lyon. Where?"))

    assert await asyncio.gather(ask("Alec"), ask("Greta")) == ["AlecmovedtoLyon.", "GretamovedtoLyon."]


def test_one_text_is_one_document(steered):
    with highlighting("Ada lives in Lyon.") as scope:
        marked = steered.tokenize("Ada lives in Lyon. Robert rows.")
    assert scope.marked == 1
    assert (
        marked.weights
        == steered.tokenize(Prompt("Ada lives in Lyon. Robert rows.").highlight("Ada lives in Lyon.")).weights
    )


def test_no_highlighting_hides_an_open_block(steered):
    with highlighting([DOCUMENT]) as scope:
        with no_highlighting():
            assert open_highlighting() is None
            assert marked(steered.tokenize(f"{DOCUMENT} Where?")) == ""
        assert scope.prompts == 0
        assert marked(steered.tokenize(f"{DOCUMENT} Where?")) == DOCUMENT.replace(" ", "")
    assert scope.prompts == 1
