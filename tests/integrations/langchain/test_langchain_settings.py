"""Settings that mean nothing are refused, and the message says what to use."""

from __future__ import annotations

import pytest
from langchain_chains import TEMPLATE
from langchain_seka import ChatSeka, HighlightPrompt, SekaLLM

from seka_rag import SekaError


@pytest.mark.parametrize("cls", [ChatSeka, SekaLLM])
@pytest.mark.parametrize(("wrong", "near"), [("highlightr", "highlighter"), ("max_new_tokens", "max_tokens")])
def test_unknown_field(cls, wrong, near):
    with pytest.raises(ValueError, match=f"has no field '{wrong}' .did you mean '{near}'"):
        cls(model="x", **{wrong: 4})
    assert cls(model="x", max_retries=2, api_key="k", stop_sequences=["."]).stop == ["."]


@pytest.mark.parametrize("cls", [ChatSeka, SekaLLM])
def test_two_models(cls, engine):
    with pytest.raises(ValueError, match="give one of the two"):
        cls(model="another", steered_model=engine)


@pytest.mark.parametrize("wrong", ["off", "seka", False, 0.5])
def test_steering(chat, llm, wrong):
    with pytest.raises(ValueError, match="use 'auto', None, or a method"):
        ChatSeka(model="x", steering=wrong)
    for model in (chat, llm):
        with pytest.raises(SekaError, match="use 'auto', None, or a method"):
            model.invoke("Where does Alec live?", steering=wrong)


def test_variables_that_the_template_lacks():
    with pytest.raises(ValueError, match=r"no variables \['ctx'\]: it has \['context', 'question'\]"):
        HighlightPrompt(prompt=TEMPLATE, variables=["context", "ctx"])
