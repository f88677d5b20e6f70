"""Small inputs with which chains once lost a highlight or an option, each with the right value."""

from __future__ import annotations

import copy
import pickle
from typing import Literal

import pytest
from langchain.agents import create_agent
from langchain_chains import ask, own_sources, rag, sources
from langchain_core.prompts import PromptTemplate
from langchain_seka import ChatSeka, HighlightPrompt, SekaCallbackHandler, SekaLLM
from pydantic import BaseModel

from seka_rag import SekaError, SteeredModel


class City(BaseModel):
    city: Literal["Lyon", "Oslo"]


@pytest.mark.parametrize("with_config", [True, False])
def test_a_handler_below_the_top_level(engine, with_config):
    handler = SekaCallbackHandler(highlighter="all")
    chat = ChatSeka(steered_model=engine, max_tokens=1, callbacks=None if with_config else [handler])
    answer = rag(chat.with_config(callbacks=[handler]) if with_config else chat).invoke(ask("Astrid"))
    assert sources(answer) == own_sources(ask("Astrid"))
    assert handler.reports == [answer.response_metadata["seka"]]


def test_a_limit_in_every_spelling(engine):
    chat = ChatSeka(steered_model=engine, max_tokens=9)
    by_field = ChatSeka(steered_model=engine, generate_kwargs={"max_new_tokens": 3})
    for answer in (
        chat.invoke("Hello", max_new_tokens=3),
        chat.bind(max_new_tokens=3).invoke("Hello"),
        by_field.invoke("Hello"),
    ):
        assert answer.usage_metadata["output_tokens"] == 3
    with pytest.raises(ValueError, match="did you mean 'max_tokens'"):
        ChatSeka(steered_model=engine, max_new_tokens=3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_return_sequences": 2, "temperature": 1.0}, "a conversation has one answer"),
        ({"temperature": -1}, "temperature=-1: give a number of at least 0"),
        ({"top_p": 3}, r"top_p=3: give a share in \(0, 1\]"),
    ],
)
def test_options_that_were_swallowed_or_raised_in_others_words(chat, options, says):
    with pytest.raises(SekaError, match=says):
        chat.invoke("Hello", **options)


def test_errors_recommend_what_the_class_takes(engine):
    with pytest.raises(ValueError, match=r"generate_kwargs=\{'truncate': \.\.\.\}"):
        ChatSeka(steered_model=engine, truncate="left")
    chat = ChatSeka(steered_model=engine, max_tokens=1, generate_kwargs={"truncate": "left"})
    assert chat.invoke("word " * 2000).usage_metadata["output_tokens"] == 1
    with pytest.raises(ValueError, match="needs a model: give its name"):
        ChatSeka()


def test_a_used_model_is_stored_without_its_weights():
    chat = ChatSeka(model="seka-demo", max_tokens=1)
    chat.invoke("Hello")
    assert len(pickle.dumps(chat)) < 10_000
    assert copy.deepcopy(chat).engine is chat.engine


def test_a_model_without_a_bank_says_so_when_it_is_made(engine):
    bare = SteeredModel(engine.hf_model, engine.tokenizer, name="bare")
    with pytest.raises(ValueError, match="bare has no bank to steer with"):
        ChatSeka(steered_model=bare)
    assert sources(rag(ChatSeka(steered_model=bare, steering=None, max_tokens=1)).invoke(ask("Astrid"))) == set()


def test_the_profile_is_the_same_however_the_model_is_given(engine, monkeypatch):
    plain = copy.copy(engine.tokenizer)
    plain.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"  # no tools
    model = SteeredModel(engine.hf_model, plain, bank=engine.bank, name="plain")
    monkeypatch.setattr("seka_rag.frameworks.settings.shared_model", lambda *_: model)
    for chat in (ChatSeka(model="plain", max_tokens=60), ChatSeka.from_steered(model, max_tokens=60)):
        assert chat.profile["structured_output"]
        agent = create_agent(chat, [], response_format=City)
        assert isinstance(agent.invoke({"messages": [("user", "Where?")]})["structured_response"], City)
        assert isinstance(chat.with_structured_output(City).invoke("Where?"), City)  # as a JSON schema


def test_marks_that_a_completion_model_cannot_be_given(engine):
    prompt = HighlightPrompt(prompt=PromptTemplate.from_template("{context}"))
    with pytest.raises(SekaError, match="use ChatSeka"):
        (prompt | SekaLLM(steered_model=engine, max_tokens=1)).invoke({"context": "Ada lives in Lyon."})
