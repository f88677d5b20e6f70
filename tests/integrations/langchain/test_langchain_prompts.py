"""HighlightPrompt, and where passages stand in a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_chains import TEMPLATE, Facts, ask, documents, own_sources, sources
from langchain_core.prompts import ChatPromptTemplate, FewShotPromptTemplate, PromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_seka import HighlightPrompt
from langchain_seka.placing import place_passages

from seka_rag import Prompt, SekaError, Span


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


def found(passages, text):
    """Index -> the characters of the text where the passage was found."""
    spans = {i: place.move(Span(0, len(passages[i]))) for i, place in place_passages(passages, text).items()}
    return {i: text[s.start : s.end] for i, s in spans.items()}


class TestPlacing:
    def test_exact_and_white_space(self):
        assert found(["a b c."], "x a b c. y") == {0: "a b c."}
        assert found(["a\n\nb  c."], "x a b c. y") == {0: "a b c."}
        assert found(["  a b c.\n"], "x a\n   b c. y") == {0: "a\n   b c."}

    def test_cut_off(self):
        passage = "Astrid moved to Lyon last year. She then bought a house there."
        assert found([passage], f"<doc>{passage[:40]}...") == {0: passage[:40]}
        assert found([passage], f"<doc>{passage[:20]}...") == {}
        place = place_passages([passage], f"<doc>{passage[:40]}...")[0]
        assert place.move(Span(50, 60)) is None
        assert place.move(Span(7, 60)) == Span(12, 45)

    def test_not_inside_a_word(self):
        assert found(["art"], "party art") == {0: "art"}
        assert place_passages(["art"], "party art")[0].start == 6

    def test_no_overlap(self):
        places = place_passages(["b c", "a b c d", "b c"], "a b c d; b c")
        assert set(places) in ({0, 1}, {1, 2})
        assert places[1].start == 0

    def test_blank(self):
        assert place_passages(["", "  "], "a  b") == {}

    @given(
        st.lists(st.text("ab .\n", min_size=1, max_size=12), max_size=5),
        st.sampled_from(["\n\n", " | ", "", "\n- "]),
    )
    def test_what_is_found_is_the_passage(self, passages, separator):
        text = separator.join(passages)
        places = place_passages(passages, text)
        taken = []
        for i, place in places.items():
            span = place.move(Span(0, len(passages[i])))
            assert text[span.start : span.end].split() == passages[i].split()
            taken += range(span.start, span.end)
        assert len(taken) == len(set(taken))

    @given(st.text("ab .\n", min_size=1, max_size=30), st.data())
    def test_spans_keep_their_words(self, passage, data):
        start = data.draw(st.integers(0, len(passage) - 1))
        end = data.draw(st.integers(start + 1, len(passage)))
        text = "Text: " + "  ".join(passage.split()) + " :end"
        place = place_passages([passage], text).get(0)
        moved = place.move(Span(start, end)) if place else None
        wanted = "".join(passage[start:end].split())
        assert ("" if moved is None else "".join(text[moved.start : moved.end].split())) == wanted
