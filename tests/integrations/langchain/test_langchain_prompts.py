"""HighlightPrompt: what goes into a template is highlighted, known from the template itself."""

from __future__ import annotations

import pytest
from langchain_chains import TEMPLATE, Facts, ask, documents, own_sources, sources
from langchain_core.prompts import ChatPromptTemplate, FewShotPromptTemplate, PromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_seka import HighlightPrompt

from seka_rag import Prompt, SekaError


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

    def test_mistakes(self):
        prompt = HighlightPrompt(prompt=TEMPLATE)
        with pytest.raises(SekaError, match="context"):
            prompt.invoke({"question": "?"})
        with pytest.raises(SekaError, match="not int"):
            prompt.invoke({"context": 3, "question": "?"})
        escaping = ChatPromptTemplate.from_messages([("human", "{{context}}")], template_format="mustache")
        with pytest.raises(SekaError, match="unchanged"):
            HighlightPrompt(prompt=escaping).invoke({"context": "a <b> c"})
