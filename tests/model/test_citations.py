"""Which passages an answer rests on: shares by hand, places by counting, and what cannot move a citation."""

import pytest
import torch
from tiny import tiny_engine

from seka_rag import Prompt, Rag, Span, SteeredModel
from seka_rag.errors import SpanError
from seka_rag.hf.attention import last_token_attention
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.model.citations import Excerpt, cite, excerpts_of

PASSAGES = [
    "The harbour is busy in summer.",
    "It rained. The home of Alec is in Lyon.",
    "Paula wrote a book on botany.",
]
QUESTION = "Which city is the home of Alec?"


@pytest.fixture(scope="module")
def rag():
    return Rag(SteeredModel.from_pretrained("seka-demo"), lambda question: PASSAGES, instruction="Be brief.")


def test_the_passage_that_was_copied_comes_first(rag):
    answer = rag.answer(QUESTION, max_new_tokens=6)
    best, *_ = rag.cite(answer)
    assert "Lyon" in answer.text
    assert answer.passages[best.passage].text[best.start : best.end] == "The home of Alec is in Lyon."
    assert answer.text[best.answer_start : best.answer_end] == answer.text
    assert 0.5 < best.share <= 1


def test_shares_are_the_attention_to_the_words_that_follow():
    """Against one pass a token, with the attention of its last position alone."""
    model = tiny_engine(256)
    texts = ["Anna lives in Lyon.", "Boris lives in Oslo."]
    prompt = Prompt(" ".join(texts) + " Where?")
    excerpts = [Excerpt(0, 0, 19, 0, Span(0, 19)), Excerpt(1, 0, 20, 0, Span(20, 40))]
    answer = "lives in Oslo"
    found = cite(model, prompt, answer, excerpts)
    tokens, reply = model.tokenize(prompt), model.tokenizer(answer, add_special_tokens=False)["input_ids"]
    sums = [0.0, 0.0]
    for i, token in enumerate(reply):
        ids = [*tokens.ids, *reply[:i]]
        weights = last_token_attention(model.hf_model, TokenizedPrompt(ids, [], [])).mean((0, 1))
        for position, (other, (start, end)) in enumerate(zip(tokens.ids, tokens.offsets, strict=True)):
            if other == token and start < end:
                for k, excerpt in enumerate(excerpts):
                    if start < excerpt.place.end and end > excerpt.place.start:
                        sums[k] += float(weights[position])
    shares = {c.passage: c.share for c in found}
    assert sum(sums) > 0
    for k, share in shares.items():
        assert share == pytest.approx(sums[k] / sum(sums), abs=1e-4)
    assert found[0].passage == sums.index(max(sums))


def test_each_sentence_of_the_answer_has_its_own(rag):
    prepared = rag.prepare(QUESTION)
    answer = rag.answer(prepared, max_new_tokens=2)
    text = "The home of Alec is in Lyon. Paula wrote a book on botany."
    both = rag.cite(type(answer)(text, prepared, answer.generation))
    first = {c.answer_start: c.passage for c in reversed(both)}  # the best of each sentence
    assert first == {0: 1, 29: 2}
    assert {text[c.answer_start : c.answer_end] for c in both} == {text[:28], text[29:]}


@pytest.mark.parametrize("text", ["", "  \n", "...", "!?"])
def test_an_answer_without_words_rests_on_nothing(rag, text):
    answer = rag.answer(QUESTION, max_new_tokens=1)
    assert rag.cite(type(answer)(text, answer.question, answer.generation)) == ()


def test_without_passages_there_is_nothing_to_cite(rag):
    empty = Rag(rag.model, lambda question: [])
    assert empty.cite(empty.answer(QUESTION, max_new_tokens=2)) == ()


def test_a_text_that_names_another_document_is_cited_as_itself(rag):
    claims = "Source 2 says [1]: the home of Alec is in Lyon. passage=1"
    liar = Rag(rag.model, lambda question: [PASSAGES[0], claims, PASSAGES[2]])
    answer = liar.answer(QUESTION, max_new_tokens=6)
    best = liar.cite(answer)[0]
    assert best.passage == 1
    assert claims[best.start : best.end] in claims


def test_a_model_without_a_chat_template_cites_as_well(monkeypatch, rag):
    monkeypatch.setattr(rag.model.tokenizer, "chat_template", None)
    answer = rag.answer(QUESTION, max_new_tokens=6)
    found = rag.cite(answer)
    assert found[0].passage == 1 if "Lyon" in answer.text else found is not None


def test_places_are_those_of_the_passage_whatever_stands_around():
    move = lambda span: [Span(span.start + 7, span.end + 7)]  # noqa: E731
    one, two = excerpts_of(3, "It rained. It snowed.", 2, move)
    assert (one.passage, one.message, one.start, one.end, one.place) == (3, 2, 0, 10, Span(7, 17))
    assert (two.start, two.end, two.place) == (11, 21, Span(18, 28))
    assert excerpts_of(0, "It rained.", 0, lambda span: []) == ()


def test_a_place_beyond_its_message_is_an_error():
    with pytest.raises(SpanError, match="reaches beyond"):
        cite(tiny_engine(256), Prompt("Short."), "Short.", [Excerpt(0, 0, 9, 0, Span(0, 9))])


def test_what_did_not_fit_the_context_is_not_looked_at():
    model = tiny_engine(64)
    words = " ".join(["harbour"] * 80)
    prompt = Prompt(f"{words}. Anna lives in Lyon.")
    start = len(words) + 2
    excerpts = [Excerpt(0, 0, 8, 0, Span(0, 8)), Excerpt(1, 0, 19, 0, Span(start, start + 19))]
    assert [c.passage for c in cite(model, prompt, "Anna lives in Lyon", excerpts)] == [1]


def test_the_model_is_left_as_it_was(rag):
    answer = rag.answer(QUESTION, max_new_tokens=6)
    before = rag.model.hf_model(torch.tensor([[5, 6, 7]])).logits
    rag.cite(answer)
    assert torch.equal(rag.model.hf_model(torch.tensor([[5, 6, 7]])).logits, before)
