"""Constrained decoding: whatever a random model would say, what it writes is of the schema."""

import copy
import json
import sys

import pytest
import torch
from pydantic import BaseModel
from tiny import byte_level_tokenizer, demo_tokenizer, tiny_model

from seka_rag import Prompt, Seka, SteeredModel
from seka_rag.errors import MissingExtraError, SettingError, TokenizationError, UnsupportedModelError
from seka_rag.hf.grammar import closed

CITY = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Lyon in May", "Oslo"]},
        "sure": {"type": "boolean"},
        "notes": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 1, "maxItems": 2},
    },
    "required": ["city", "sure", "notes"],
}
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search the notes",
        "parameters": {
            "type": "object",
            "properties": {
                "where": {"enum": ["notes", "mail"]},
                "top": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["where", "top"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now", "description": "The time"}}
ASKED = [{"role": "user", "content": "Where does Alec live?"}]
BOTH = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}"
MISTRAL = BOTH + "{# [TOOL_CALLS] #}"
LLAMA = BOTH + '{# {"name": function name, "parameters" #}'


def is_city(text):
    value = json.loads(text)
    assert list(value) == ["city", "sure", "notes"]
    assert value["city"] in ("Lyon in May", "Oslo")
    assert isinstance(value["sure"], bool)
    assert 1 <= len(value["notes"]) <= 2
    assert all(len(note) <= 3 for note in value["notes"])


def engine_with(tokenizer, make_bank):
    model = tiny_model("qwen3", vocab_size=len(tokenizer) + 7, max_position_embeddings=1024, **ids(tokenizer))
    return SteeredModel(model, tokenizer, bank=make_bank(model), name="tiny")


def ids(tokenizer):
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


@pytest.fixture(scope="module", params=["word pieces", "byte level"])
def engine(request, make_bank):
    made = {"word pieces": demo_tokenizer, "byte level": byte_level_tokenizer}[request.param]()
    return engine_with(copy.deepcopy(made), make_bank)


class TestSchema:
    def test_greedy_sampled_and_in_batches(self, engine):
        options = {"json_schema": CITY, "max_new_tokens": 120}
        texts = [engine.generate("Where?", **options), *engine.generate(["Where?", "And now, Alec?"], **options)]
        texts += engine.generate("Where?", temperature=2.0, seed=1, num_return_sequences=3, **options)
        for generation in texts:
            is_city(generation.text)
            assert generation.finish_reason == "stop"
        assert texts[0].text == texts[1].text  # a row of a batch is the same as alone

    def test_streamed(self, engine):
        stream = engine.stream("Where?", json_schema=CITY, max_new_tokens=120)
        pieces = list(stream)
        assert len(pieces) > 5
        assert (
            "".join(pieces)
            == stream.result.text
            == engine.generate("Where?", json_schema=CITY, max_new_tokens=120).text
        )

    def test_steered(self, engine):
        prompt = Prompt("Alec moved to Lyon. Where?").highlight("Lyon")
        answer = engine.generate(prompt, json_schema=CITY, max_new_tokens=120, steering=Seka(gain=5.0))
        is_city(answer.text)
        assert answer.report.tokens_edited > 0

    def test_prompt_lookup(self, engine):
        """Candidates that are looked at ahead and not taken leave no trace."""
        options = {"json_schema": CITY, "max_new_tokens": 120}
        answer = engine.generate('{"city": "Oslo", "sure": true', prompt_lookup_num_tokens=3, **options)
        assert answer.text == engine.generate('{"city": "Oslo", "sure": true', **options).text
        is_city(answer.text)

    def test_pydantic_and_any_object(self, engine):
        class Flag(BaseModel):
            on: bool

        assert set(json.loads(engine.generate("Where?", json_schema=Flag, max_new_tokens=40).text)) == {"on"}
        assert engine.generate("Where?", json_schema=True, max_new_tokens=40).text.startswith("{")

    def test_cut_off(self, engine):
        answer = engine.generate("Where?", json_schema=CITY, max_new_tokens=3)
        assert answer.finish_reason == "length"
        assert "city".startswith(answer.text.removeprefix('{"')[:2])

    def test_no_control_token_can_be_written(self, engine):
        """Nor half of a surrogate pair."""
        schema = {
            "type": "object",
            "properties": {"a": {"type": "string", "minLength": 30, "maxLength": 40}},
            "required": ["a"],
        }
        for seed in range(3):
            answer = engine.generate("Where?", json_schema=schema, max_new_tokens=150, temperature=5.0, seed=seed)
            assert answer.finish_reason == "stop"
            assert 30 <= len(json.loads(answer.text)["a"]) <= 40
            assert not any(t in answer.text for t in engine.tokenizer.all_special_tokens)
            answer.text.encode()

    def test_mistakes(self, engine):
        for options, error in (
            ({"json_schema": 3}, "a pydantic model or True, not 3"),
            ({"json_schema": {"type": "car"}}, "cannot be used for constrained decoding"),
            ({"json_schema": {"type": "string", "pattern": "(?=a)b"}}, "cannot be used for constrained decoding"),
            ({"json_schema": CITY, "num_beams": 2}, "beam search"),
            ({"json_schema": CITY, "eos_token_id": 7}, "leave eos_token_id out"),
            ({"json_schema": CITY, "tools": [NOW], "tool_choice": "now"}, "contradict"),
            ({"tools": [NOW], "tool_choice": "later"}, "the name of a tool"),
        ):
            with pytest.raises(SettingError, match=error):
                engine.generate("Where?", max_new_tokens=5, **options)

    def test_without_llguidance(self, engine, monkeypatch):
        monkeypatch.setitem(sys.modules, "llguidance", None)
        bare = SteeredModel(engine.hf_model, engine.tokenizer)
        with pytest.raises(MissingExtraError, match=r"seka-rag\[structured\]"):
            bare.generate("Where?", json_schema=CITY)

    def test_tokens_without_fixed_bytes(self, qwen3):
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        backend = Tokenizer(models.WordLevel({"<e>": 0, "a": 1, "b": 2}, unk_token="<e>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        words = SteeredModel(qwen3, PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>", unk_token="<e>"))
        with pytest.raises(TokenizationError, match="WordLevel tokenizer have no fixed bytes"):
            words.generate("a b", json_schema=CITY)


class TestCalls:
    def test_one_call_is_forced(self, engine):
        any_of = engine.chat(ASKED, tools=[SEARCH, NOW], tool_choice="any", max_new_tokens=120)
        named = engine.chat(ASKED, tools=[SEARCH, NOW], tool_choice="search", max_new_tokens=120)
        empty = engine.chat(ASKED, tools=[SEARCH, NOW], tool_choice="now", max_new_tokens=120)
        for answer in (any_of, named, empty):
            assert (answer.text, answer.invalid_tool_calls, answer.finish_reason) == ("", (), "stop")
            assert len(answer.tool_calls) == 1
        assert any_of.tool_calls[0].name in ("search", "now")
        assert named.tool_calls[0].arguments["where"] in ("notes", "mail")
        assert named.tool_calls[0].arguments["top"] in range(1, 10)
        assert (empty.tool_calls[0].name, empty.tool_calls[0].arguments) == ("now", {})

    @pytest.mark.parametrize("template", [MISTRAL, LLAMA, MISTRAL + "{# [ARGS] #}"])
    def test_in_the_form_of_the_template(self, engine, template, monkeypatch):
        monkeypatch.setattr(engine.tokenizer, "chat_template", template)
        answer = engine.chat(ASKED, tools=[SEARCH, NOW], tool_choice="search", max_new_tokens=120)
        assert answer.tool_calls[0].arguments["where"] in ("notes", "mail")

    def test_streamed_calls_are_no_text(self, engine):
        stream = engine.stream_chat(ASKED, tools=[SEARCH], tool_choice="search", max_new_tokens=120)
        assert list(stream) == []
        assert stream.result.tool_calls[0].name == "search"

    def test_free_to_call_or_not(self, engine):
        plain = engine.chat(ASKED, tools=[SEARCH], max_new_tokens=12)
        assert plain.tool_calls == plain.invalid_tool_calls == ()
        free = engine.generate(engine.tokenize_chat(ASKED, tools=[SEARCH]), max_new_tokens=12)
        assert plain.text.replace(" ", "") == free.text.replace(" ", "")  # spaces are cleaned up in one of them
        strict = engine.chat(ASKED, tools=[SEARCH], strict=True, max_new_tokens=12)
        assert strict.tool_calls == ()
        assert strict.finish_reason == "length"

    def test_a_call_that_was_begun_freely_is_held_to_its_schema_if_strict(self, engine):
        """The model is made to write the beginning of a call."""
        begun = engine.tokenizer("<tool_call>\n", add_special_tokens=False)["input_ids"]

        def lead(batch, sequence):
            done = len(sequence) - length
            return [begun[done]] if done < len(begun) else everything

        everything = list(range(engine.hf_model.config.vocab_size))
        length = len(engine.tokenize_chat(ASKED, tools=[SEARCH]))
        answer = engine.chat(ASKED, tools=[SEARCH], strict=True, max_new_tokens=120, prefix_allowed_tokens_fn=lead)
        assert answer.tool_calls[0].arguments["where"] in ("notes", "mail")

    def test_cut_off_calls_are_invalid(self, engine):
        answer = engine.chat(ASKED, tools=[SEARCH], tool_choice="search", max_new_tokens=12)
        assert (answer.tool_calls, answer.finish_reason) == ((), "length")
        assert "not JSON" in answer.invalid_tool_calls[0].error

    def test_a_marker_that_is_a_control_token_is_seen(self, engine, monkeypatch):
        """It is no text for the tokenizer, and still what a call begins with."""
        if "[TOOL_CALLS]" not in engine.tokenizer.all_special_tokens:
            pytest.skip("this vocabulary has none")
        monkeypatch.setattr(engine.tokenizer, "chat_template", MISTRAL)
        written = engine.tokenizer('[TOOL_CALLS][{"name": "now", "arguments": {}}]', add_special_tokens=False)[
            "input_ids"
        ]
        assert written[0] == engine.tokenizer.convert_tokens_to_ids("[TOOL_CALLS]")
        length = len(engine.tokenize_chat(ASKED, tools=[NOW]))

        def lead(batch, sequence):
            done = len(sequence) - length
            return [written[done] if done < len(written) else engine.tokenizer.eos_token_id]

        answer = engine.chat(ASKED, tools=[NOW], max_new_tokens=80, prefix_allowed_tokens_fn=lead)
        assert [(c.name, c.arguments) for c in answer.tool_calls] == [("now", {})]

    def test_none_leaves_tools_out(self, engine):
        without = engine.chat(ASKED, max_new_tokens=3)
        assert engine.chat(ASKED, tools=[NOW], tool_choice="none", max_new_tokens=3) == without

    def test_a_template_of_another_form(self, engine, monkeypatch):
        monkeypatch.setattr(engine.tokenizer, "chat_template", "{{ tools | tojson }}{{ messages[0].content }}")
        with pytest.raises(UnsupportedModelError, match="Hermes and Qwen, Llama 3, Mistral"):
            engine.chat(ASKED, tools=[NOW])

    async def test_async(self, engine):
        answer = await engine.achat(ASKED, tools=[NOW], tool_choice="any", max_new_tokens=60)
        assert answer.tool_calls[0].name == "now"


def test_a_sentencepiece_model(shared_data):
    model = SteeredModel.from_pretrained(str(shared_data / "models" / "tinystories-260k"), bank=None)
    is_city(model.generate("Once upon a time", json_schema=CITY, max_new_tokens=120).text)


def test_references_of_a_tool_are_found(engine):
    """They count from the root of the schema, which is another one in a call."""
    tool = json.loads(json.dumps(SEARCH))
    tool["function"]["parameters"] = {
        "type": "object",
        "properties": {"p": {"$ref": "#/$defs/P"}},
        "required": ["p"],
        "$defs": {"P": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}},
    }
    answer = engine.chat(ASKED, tools=[tool], tool_choice="any", max_new_tokens=120)
    assert answer.tool_calls[0].arguments["p"]["x"] in (True, False)


def test_closed():
    inner = {"type": "object", "properties": {"b": {"type": "object"}}}
    assert closed({"properties": {"a": inner}})["properties"]["a"]["additionalProperties"] is False
    assert "additionalProperties" not in closed({"type": "object"})
    for untouched in (
        {**inner, "additionalProperties": True},
        {"allOf": [inner]},
        {"enum": [inner]},
        {"default": inner},
    ):
        assert closed(untouched) == untouched


def test_rows_that_ended_are_left_alone(engine):
    """One row ends much earlier; the other is not touched by that."""
    schema = {
        "type": "object",
        "properties": {"n": {"type": "string", "pattern": "^(a{1,2}|b{20,30})$"}},
        "required": ["n"],
    }
    rows = engine.generate(["Where?"] * 4, json_schema=schema, max_new_tokens=150, temperature=3.0, seed=2)
    assert all(r.finish_reason == "stop" for r in rows)
    lengths = {len(json.loads(r.text)["n"]) for r in rows}
    assert len(lengths) > 1
    assert torch.is_grad_enabled()
