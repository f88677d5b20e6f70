"""A call is checked before any work begins: its options by name, its values by meaning."""

import dataclasses

import pytest

from seka_rag import Seka
from seka_rag.errors import SettingError
from seka_rag.model.call import Call

TEXT = "Ada lives in Lyon."


@pytest.mark.parametrize(
    ("option", "near"),
    [
        ("max_tokens", "max_new_tokens"),  # close to one of this library
        ("temprature", "temperature"),  # close to one of transformers
        ("steer", "steering"),
        ("jsonschema", "json_schema"),
    ],
)
def test_an_unknown_option_names_the_nearest_known_one(steered, option, near):
    with pytest.raises(SettingError, match=f"unknown option '{option}': did you mean '{near}'"):
        steered.generate(TEXT, **{option: 1})


def test_an_option_that_is_like_no_other(steered):
    with pytest.raises(SettingError, match="unknown option 'zzz': see SteeredModel.generate"):
        steered.generate(TEXT, zzz=1)


async def test_every_way_in_refuses_it_before_work_begins(steered, monkeypatch):
    """A stream as well: when it is made, not at its first piece."""
    worked = []
    monkeypatch.setattr(steered, "tokenize", worked.append)
    monkeypatch.setattr(steered, "tokenize_chat", worked.append)
    messages = [{"role": "user", "content": TEXT}]
    for start in (steered.generate, steered.stream, steered.astream):
        with pytest.raises(SettingError, match="unknown option"):
            start(TEXT, zzz=1)
    for start in (steered.chat, steered.stream_chat):
        with pytest.raises(SettingError, match="unknown option"):
            start(messages, zzz=1)
    with pytest.raises(SettingError, match="unknown option"):
        await steered.agenerate(TEXT, zzz=1)
    with pytest.raises(SettingError, match="unknown option"):
        await steered.achat(messages, zzz=1)
    assert worked == []


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("streamer", "use stream"),
        ("past_key_values", "use prefix"),
        ("input_ids", "prompt"),
        ("pad_token_id", "padding"),
        ("generation_config", "its settings as options"),
    ],
)
def test_what_a_call_sets_itself_is_refused(steered, option, instead):
    with pytest.raises(SettingError, match=f"{option}.*{instead}"):
        steered.generate(TEXT, **{option: 1})


def test_options_of_transformers_are_passed_on(steered):
    plain = steered.generate(TEXT, max_new_tokens=6)
    same = steered.generate(TEXT, max_new_tokens=6, output_scores=True, return_dict_in_generate=True, use_cache=False)
    assert same.text == plain.text
    call = Call.of({"repetition_penalty": 1.5, "seed": 3, "top_k": 5}, steered.hf_model)
    assert (call.seed, dict(call.generation)) == (3, {"repetition_penalty": 1.5, "top_k": 5})
    assert call.for_transformers() == {"repetition_penalty": 1.5, "top_k": 5, "do_sample": True, "max_new_tokens": 256}


def test_a_custom_loop_has_options_of_its_own(steered):
    def loop(model, input_ids, *, words, **kwargs):
        return input_ids.repeat(1, words)

    out = steered.generate(TEXT, max_new_tokens=1, custom_generate=loop, words=2)
    assert out.text == TEXT


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": None},
        {"max_new_tokens": "5"},
        {"prefix": 5},
        {"stop": 5},
        {"stop": [1]},
        {"seed": "x"},
        {"seed": 2**70},
        {"timeout": "5"},
        {"timeout": float("nan")},
        {"tools": 5},
        {"top_k": float("inf")},
        {"eos_token_id": "x"},
        {"truncate": "right"},
        {"steering": "on"},
    ],
)
def test_values_that_mean_nothing(steered, options):
    with pytest.raises(SettingError, match=next(iter(options))):
        steered.stream(TEXT, **options)


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}])
def test_a_stream_is_of_one_answer(steered, options):
    """The tokens of several would be mixed."""
    for start in (steered.stream, steered.astream):
        with pytest.raises(SettingError, match="a stream is of one answer"):
            start(TEXT, **options)
    with pytest.raises(SettingError, match="one answer"):
        steered.stream_chat([{"role": "user", "content": TEXT}], **options)


@pytest.mark.parametrize(
    ("options", "samples"),
    [
        ({}, False),
        ({"temperature": 0.7}, True),
        ({"temperature": 0, "top_p": 0.5}, False),
        ({"top_p": 0.5}, True),
        ({"top_p": 0.5, "do_sample": False}, False),
        ({"do_sample": True}, True),
    ],
)
def test_when_tokens_are_drawn(steered, options, samples):
    call = Call.of(options, steered.hf_model)
    assert call.samples is call.for_transformers()["do_sample"] is samples
    if not samples:
        assert call.for_transformers()["top_p"] is None


def test_a_call_is_frozen():
    call = Call(steering=Seka(gain=1.0), stop=["", "end"])
    assert call.stop_strings == ("end",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        call.seed = 1
