"""Where the plain and the steered model look, on the built-in model."""

import pytest

from seka_rag import KeyScaling, Rag, SteeredModel
from seka_rag.errors import SettingError
from seka_rag.model.attention import read_attention

PASSAGES = [
    "The harbour is busy in summer.",
    "The home of Alec is in Lyon. It rained.",
    "Paula wrote a book on botany.",
]


@pytest.fixture(scope="module")
def model():
    return SteeredModel.from_pretrained("seka-demo")


@pytest.fixture(scope="module")
def rag(model):
    return Rag(model, lambda question: PASSAGES, instruction="Be brief.")


@pytest.fixture(scope="module")
def reading(model, rag):
    prepared = rag.prepare("Which city is the home of Alec?")
    return read_attention(model, prepared.messages, prepared.places, max_new_tokens=6)


def test_passages_are_placed_by_counting(rag):
    asked = rag.prepare("Which city is the home of Alec?")
    assert [asked.prompt.text[s.start : s.end] for s in asked.places] == PASSAGES


def test_the_answers_are_those_of_the_model(model, rag, reading):
    prepared = rag.prepare("Which city is the home of Alec?")
    for look, steering in ((reading.plain, None), (reading.steered, "auto")):
        answer = model.chat(prepared.messages, steering=steering, max_new_tokens=6)
        assert look.generation.text == answer.text == "".join(look.pieces)
        assert len(look.steps) == len(look.pieces) == answer.completion_tokens
    assert reading.plain.generation.text != reading.steered.generation.text
    assert [reading.prompt.text[s.start : s.end] for s in reading.passages] == PASSAGES
    assert "Which city" in reading.prompt.text[slice(*reading.question)]
    assert reading.prompt.highlighted == ("The home of Alec is in Lyon.",)


def test_shares_are_of_the_whole_and_steering_turns_them(reading):
    for look in (reading.plain, reading.steered):
        passages, question, rest = reading.shares(look, 0)
        assert sum(passages) + question + rest == pytest.approx(1.0, abs=1e-4)
    plain, steered = (reading.shares(look, 0)[0] for look in (reading.plain, reading.steered))
    assert steered[1] > plain[1]
    change = reading.to_highlights(reading.steered) - reading.to_highlights(reading.plain)
    best = divmod(int(change.argmax()), change.shape[1])
    assert best in reading.heads
    assert len(reading.heads) == min(10, change.numel())


def test_edited_heads_are_those_of_the_bank(model, reading):
    groups = model.hf_model.config.num_attention_heads // model.bank.model.heads
    kept = {(int(i), int(h)) for i, h in (model.bank.ranks > 0).nonzero()}
    assert {(layer, head // groups) for layer, head in reading.edited} == kept


def test_without_steering_there_is_nothing_to_compare(model, rag):
    prepared = rag.prepare("Which city is the home of Alec?")
    plain = [{"role": "user", "content": prepared.prompt.text}]
    for messages, steering in ((prepared.messages, None), (plain, KeyScaling(gain=1.0))):
        with pytest.raises(SettingError, match="would be the same"):
            read_attention(model, messages, prepared.places, steering=steering)
