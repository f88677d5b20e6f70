"""HighlightPrompt: what goes into a template is highlighted, known from the template itself."""

from __future__ import annotations

from itertools import count

import pytest
from langchain_chains import TEMPLATE, Facts, ask, documents, own_sources, sources
from langchain_core.messages import HumanMessage
from langchain_core.prompts import (
    ChatPromptTemplate,
    FewShotPromptTemplate,
    HumanMessagePromptTemplate,
    PromptTemplate,
)
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_seka import HighlightPrompt, SekaCallbackHandler

from seka_rag import Prompt, SekaError
from seka_rag.errors import SteeringError
from seka_rag.highlight.select import AllPassages
from seka_rag.highlight.trust import Trusted, TrustPolicy


class TestHighlightPrompt:
    def test_documents(self, chat):
        prompt = HighlightPrompt(prompt=TEMPLATE, highlighter="all")
        chain = {"context": Facts(), "question": RunnablePassthrough()} | prompt | chat
        assert sources(chain.invoke(ask("Astrid"))) == own_sources(ask("Astrid"))

    async def test_async_without_a_retriever(self, chat):
        chain = HighlightPrompt(prompt=TEMPLATE) | chat
        answer = await chain.ainvoke({"context": documents(ask("Astrid")), "question": ask("Astrid")})
        assert sources(answer) <= own_sources(ask("Astrid"))
        assert sources(answer)

    def test_text_is_highlighted_whole_and_a_prompt_where_it_says(self):
        template = ChatPromptTemplate.from_messages([("system", "{rule}"), ("human", "{context}")])
        prompt = HighlightPrompt(prompt=template, variables=["rule", "context"])
        value = prompt.invoke({"rule": " Be short. ", "context": Prompt("Astrid moved.").highlight("moved")})
        spans = [m.additional_kwargs["seka"]["spans"] for m in value.to_messages()]
        assert spans == [[[1, 10, 1.0, None]], [[7, 12, 1.0, None]]]

    def test_templates_that_the_automatic_way_cannot_follow(self, chat):
        examples = FewShotPromptTemplate(
            examples=[{"a": "1"}],
            example_prompt=PromptTemplate.from_template("{a}"),
            suffix="{context} {question}",
            input_variables=["context", "question"],
        )
        dated = ChatPromptTemplate.from_messages([("human", "{date} {context} {question}")]).partial(
            date=lambda: "Monday"
        )
        for template in (examples, dated):
            prompt = HighlightPrompt(prompt=template, highlighter="all")
            chain = {"context": Facts(), "question": RunnablePassthrough()} | prompt | chat
            assert sources(chain.invoke(ask("Astrid"))) == own_sources(ask("Astrid"))

    @pytest.mark.parametrize("inner", [False, True])
    def test_a_partial_variable_that_changes_each_time(self, chat, inner):
        numbers = count()
        if inner:
            human = PromptTemplate.from_template(
                "{n} {context} {question}", partial_variables={"n": lambda: str(next(numbers))}
            )
            template = ChatPromptTemplate.from_messages([HumanMessagePromptTemplate(prompt=human)])
        else:
            template = ChatPromptTemplate.from_messages([("human", "{n} {context} {question}")])
            template = template.partial(n=lambda: str(next(numbers)))
        prompt = HighlightPrompt(prompt=template, highlighter="all")
        chain = {"context": Facts(), "question": RunnablePassthrough()} | prompt
        assert [chain.invoke(ask("Astrid")).to_string().split()[1] for _ in range(2)] == ["0", "1"]  # once for each
        assert sources((chain | chat).invoke(ask("Astrid"))) == own_sources(ask("Astrid"))

    def test_mistakes(self):
        prompt = HighlightPrompt(prompt=TEMPLATE)
        with pytest.raises(SekaError, match="context"):
            prompt.invoke({"question": "?"})
        with pytest.raises(SekaError, match="not int"):
            prompt.invoke({"context": 3, "question": "?"})
        escaping = ChatPromptTemplate.from_messages([("human", "{{context}}")], template_format="mustache")
        with pytest.raises(SekaError, match="unchanged"):
            HighlightPrompt(prompt=escaping).invoke({"context": "a <b> c"})


class TestPolicy:
    """What a ``HighlightPrompt`` may not highlight is not highlighted by itself either, and that is said."""

    def prompt(self, *trusted):
        return HighlightPrompt(prompt=TEMPLATE, highlighter=Trusted(AllPassages(), TrustPolicy(sources=trusted)))

    def inputs(self):
        return {"context": Facts(), "question": RunnablePassthrough()}

    def test_nobody_is_trusted(self, chat):
        chain = self.inputs() | self.prompt("handbook/*")
        answer = (chain | chat.bind(on_unmarked="ignore")).invoke(ask("Astrid"))
        assert sources(answer) == set()
        policy, reason = answer.response_metadata["seka"]["warnings"]
        assert "its source is not on the list, so it is not highlighted: 'Astrid/1', 'Astrid/2'" in policy
        assert "look at its trust policy" in reason
        for callbacks in ([], [SekaCallbackHandler()]):
            with pytest.raises(SteeringError, match="look at its trust policy"):
                (chain | chat.bind(on_unmarked="raise")).invoke(ask("Astrid"), {"callbacks": callbacks})

    def test_messages_made_anew(self, chat, llm):
        chain = self.inputs() | self.prompt("*/2")
        anew = chain | RunnableLambda(lambda value: [HumanMessage(m.content) for m in value.to_messages()])
        assert sources((chain | chat).invoke(ask("Astrid"))) == {"Astrid/2"}
        for callbacks in ([], [SekaCallbackHandler()]):
            answer = (anew | chat.bind(on_unmarked="ignore")).invoke(ask("Astrid"), {"callbacks": callbacks})
            assert sources(answer) == set()
            with pytest.raises(SteeringError, match="lost the marks"):
                (anew | chat.bind(on_unmarked="raise")).invoke(ask("Astrid"), {"callbacks": callbacks})
        with pytest.raises(SteeringError, match="lost the marks"):
            (chain | (lambda value: value.to_string()) | llm.bind(on_unmarked="raise")).invoke(ask("Astrid"))

    def test_without_a_retriever(self, chat):
        inputs = {"context": documents(ask("Astrid")), "question": ask("Astrid")}
        with pytest.raises(SteeringError, match="look at its trust policy"):
            (self.prompt("handbook/*") | chat.bind(on_unmarked="raise")).invoke(inputs)
        answer = (self.prompt("*/2") | chat.bind(on_unmarked="raise")).invoke(inputs)
        assert sources(answer) == {"Astrid/2"}
        (warning,) = answer.response_metadata["seka"]["warnings"]
        assert "so it is not highlighted: 'Astrid/1'" in warning

    def test_nothing_was_found(self, chat):
        answer = (self.prompt("*") | chat.bind(on_unmarked="raise")).invoke({"context": [], "question": "?"})
        (warning,) = answer.response_metadata["seka"]["warnings"]
        assert "context: no document was given" in warning
