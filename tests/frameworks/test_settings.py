"""One vocabulary: fields, options of a call, what is to be highlighted, and which tool is to be called."""

from __future__ import annotations

import copy
import pickle
from typing import ClassVar

import pytest
from tiny import tiny_engine

from seka_rag import RemoteModel, Seka, SekaError
from seka_rag.errors import SettingError, SpanError
from seka_rag.frameworks import HighlightSettings, ModelSettings, kinds, tool_choice
from seka_rag.highlight.select import AllPassages
from seka_rag.highlight.sentences import Sentences


class Model(ModelSettings):
    remote_model: ClassVar = RemoteModel


@pytest.fixture(scope="module")
def engine():
    return tiny_engine(512)


class TestHighlight:
    def test_kinds(self):
        assert kinds("auto") == {"context"}
        assert kinds("off") is None
        assert kinds([]) == frozenset()
        assert kinds(("question", "instructions")) == {"question", "instructions"}

    @pytest.mark.parametrize("wrong", ["on", "context", ["context", "all"], 3, True, None, [3]])
    def test_other_modes(self, wrong):
        with pytest.raises(SettingError, match="use 'auto', 'off', or a list of 'context', 'instructions', 'question'"):
            kinds(wrong)

    def test_the_first_that_says_anything(self):
        call, handler = {"highlight": ["question"]}, {"highlight": "auto", "highlighter": "all", "on_unmarked": None}
        own = {"highlight": "off", "highlighter": "sentences", "highlight_tools": ["notes"], "on_unmarked": "raise"}
        settings = HighlightSettings.of(call, handler, own)
        assert settings == HighlightSettings(frozenset({"question"}), AllPassages(), ("notes",), "raise")
        assert settings.has("question")
        assert not settings.has("context")
        assert HighlightSettings.of() == HighlightSettings(frozenset({"context"}), Sentences(), False, "warn")
        assert not HighlightSettings.of({"highlight": "off"}).has("context")

    def test_tools(self):
        assert HighlightSettings.of({"highlight_tools": True}).trusts("any")
        named = HighlightSettings.of({"highlight_tools": ["notes"]})
        assert named.trusts("notes")
        assert not named.trusts("mail")
        assert not named.trusts(None)
        assert HighlightSettings.of({"highlight_tools": "notes"}) == named

    def test_one_switch_turns_it_off(self):
        with pytest.raises(SettingError, match="use highlight='off'"):
            HighlightSettings.of({"highlighter": "off"})
        with pytest.raises(SpanError, match="no highlighter 'best'"):
            HighlightSettings.of({"highlighter": "best"})


class TestModel:
    def test_unknown_fields_and_values(self):
        with pytest.raises(ValueError, match=r"Model has no field 'highlightr' \(did you mean 'highlighter'\?\)"):
            Model(model="x", highlightr="all")
        for wrong in (
            {"on_unmarked": "error"},
            {"highlighter": "off"},
            {"highlight": "on"},
            {"steering": "strong"},
            {"max_tokens": 0},
            {"temperature": -1},
        ):
            with pytest.raises(ValueError):
                Model(model="x", **wrong)
        with pytest.raises(ValueError, match="model"):
            Model()

    def test_one_model(self, engine):
        assert Model(steered_model=engine).engine is Model.from_steered(engine, model=engine.name).engine is engine
        for wrong in ({"model": "another"}, {"base_url": "http://x/v1"}):
            with pytest.raises(ValueError, match="give one of the two"):
                Model(steered_model=engine, **wrong)
        for wrong in ({"bank": "folder"}, {"model_kwargs": {"dtype": "auto"}}):
            with pytest.raises(ValueError, match=f"{next(iter(wrong))} is for loading a model"):
                Model(steered_model=engine, **wrong)
            with pytest.raises(ValueError, match="give one of the two"):
                Model(base_url="http://x/v1", **wrong)
        for update in ({"model": "another"}, {"bank": "folder"}):
            with pytest.raises(ValueError, match="steered_model"):
                assert Model(steered_model=engine).model_copy(update=update).engine is engine
        with pytest.raises(ValueError, match="takes a SteeredModel"):
            Model(steered_model="seka-demo")
        with pytest.raises(ValueError, match="a server takes no num_beams"):
            Model(base_url="http://x/v1", generate_kwargs={"num_beams": 2})

    def test_a_server(self):
        far = Model(base_url="http://x/v1", api_key="secret", max_retries=5)
        assert isinstance(far.engine, RemoteModel)
        assert far.engine is far.engine
        assert (far.engine.base_url, far.engine.model, far.model) == ("http://x/v1", None, "")
        assert "secret" not in repr(far) + str(far.model_dump())

    def test_copies_share_the_model_and_nothing_stores_it(self, engine):
        own = Model(steered_model=engine, steering=Seka(gain=0.5))
        for twin in (copy.copy(own), copy.deepcopy(own), own.model_copy(), Model(**own.__dict__)):
            assert twin.engine is engine
        assert "loaded" not in own.model_dump()
        blob = pickle.dumps(own)
        assert len(blob) < 10_000
        assert pickle.loads(blob).model_dump() == own.model_dump()
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pickle.dumps(Model(model="x", highlighter=lambda question, passages: []))


class TestCall:
    def test_the_calls_own_before_the_fields(self):
        own = Model(model="x", temperature=0.5, max_tokens=9, stop=["a"], generate_kwargs={"top_p": 0.9})
        assert own.call_options({}) == {
            "temperature": 0.5,
            "max_new_tokens": 9,
            "stop": ["a"],
            "top_p": 0.9,
            "steering": "auto",
        }
        call = {
            "temperature": 0.0,
            "stop": [],
            "steering": None,
            "top_p": None,
            "highlight": "off",
            "on_unmarked": "raise",
        }
        assert own.call_options({**call, "no_repeat_ngram_size": 2}) == {
            "temperature": 0.0,
            "max_new_tokens": 9,
            "stop": [],
            "top_p": 0.9,
            "steering": None,
            "no_repeat_ngram_size": 2,
        }

    @pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens"])
    def test_both_names_of_the_limit(self, name):
        assert Model(model="x", max_tokens=9).call_options({name: 3})["max_new_tokens"] == 3
        assert Model(model="x", generate_kwargs={name: 3}).call_options({})["max_new_tokens"] == 3
        assert Model(model="x", generate_kwargs={name: 3}).call_options({"max_tokens": 4})["max_new_tokens"] == 4
        with pytest.raises(ValueError, match="give one of the two"):
            Model(model="x", max_tokens=9, generate_kwargs={name: 3})
        with pytest.raises(SettingError, match="say different numbers"):
            Model(model="x").call_options({"max_tokens": 3, "max_new_tokens": 4})

    def test_the_form_of_an_answer(self):
        schema = {"type": "object"}
        asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        own = Model(model="x")
        assert own.call_options({"response_format": asked})["json_schema"] == schema
        assert own.call_options({"response_format": {"type": "json_object"}})["json_schema"] is True
        assert "json_schema" not in own.call_options({"response_format": {"type": "text"}})
        with pytest.raises(SettingError, match="response_format is"):
            own.call_options({"response_format": "json"})


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        (None, "auto"),
        ("auto", "auto"),
        (True, "any"),
        ("required", "any"),
        ("any", "any"),
        (False, "none"),
        ("none", "none"),
        ("notes", "notes"),
        ({"type": "function", "function": {"name": "notes"}}, "notes"),
        ({"name": "notes"}, "notes"),
    ],
)
def test_choice_of_a_tool(given, choice):
    assert tool_choice(given, ["notes", "mail"]) == choice


@pytest.mark.parametrize("wrong", ["other", 3, {}, {"function": {}}, {"function": "notes"}, {"name": 3}, []])
def test_other_choices_are_refused(wrong):
    with pytest.raises(SekaError, match="tool_choice="):
        tool_choice(wrong, ["notes", "mail"])
