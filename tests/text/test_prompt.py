import doctest

import pytest
from growth import check_linear
from hypothesis import given
from hypothesis import strategies as st

import seka_rag.text.prompt
from seka_rag import Prompt, Span
from seka_rag.errors import SpanError

texts = st.text(max_size=30)


@st.composite
def prompts(draw):
    text = draw(st.text(min_size=1, max_size=30))
    spans = []
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text) - 1))
        spans.append(Span(start, draw(st.integers(start + 1, len(text)))))
    return Prompt(text, tuple(spans))


def marked_characters(prompt):
    return [prompt.text[s.start : s.end] for s in prompt.spans]


def test_docstrings_run():
    assert doctest.testmod(seka_rag.text.prompt).failed == 0


@given(prompts(), prompts(), texts)
def test_joining_moves_spans_with_their_text(a, b, middle):
    joined = a + middle + b
    assert joined.text == a.text + middle + b.text
    assert marked_characters(joined) == marked_characters(a) + marked_characters(b)


@given(st.lists(prompts(), max_size=5), texts)
def test_join_is_the_sum_of_its_parts(parts, separator):
    joined = Prompt.join(parts, separator)
    summed = parts[0] if parts else Prompt("")
    for part in parts[1:]:
        summed = summed + separator + part
    assert joined == summed


def test_a_separator_is_never_lost():
    with pytest.raises(TypeError, match="separator"):
        Prompt(", ").join(["a", "b"])


def test_joining_many_parts_takes_linear_time():
    part = Prompt("abcd ").mark(0, 4)

    def join(n):
        assert len(Prompt.join([part] * n, "").spans) == n

    check_linear(join, 500)


@given(prompts(), st.integers(0, 30), st.integers(0, 30))
def test_a_slice_and_the_rest_add_up(prompt, cut, _):
    again = prompt[:cut] + prompt[cut:]
    assert again.text == prompt.text
    assert again.highlighted == prompt.highlighted or "".join(again.highlighted) == "".join(prompt.highlighted)


def test_a_prompt_is_sliced_not_indexed():
    with pytest.raises(TypeError, match=r"prompt\[a:b\], not indexed by 0"):
        Prompt("abc")[0]


@given(prompts(), texts)
def test_format_keeps_spans_and_reads_no_braces_in_values(prompt, other):
    filled = Prompt.format("{{x}} {a}|{b}", {"a": prompt, "b": "{a}" + other})
    assert filled.text == "{x} " + prompt.text + "|{a}" + other
    assert marked_characters(filled) == marked_characters(prompt)


def test_highlight_is_exact_and_refuses_what_is_unclear():
    prompt = Prompt("red fox, red hen")
    assert prompt.highlight("fox").spans == (Span(4, 7),)
    assert prompt.highlight("red", occurrence=-1).spans == (Span(9, 12),)
    assert len(prompt.highlight("red", occurrence="all").spans) == 2
    with pytest.raises(SpanError, match=r"2 times.*characters 0, 9.*occurrence"):
        prompt.highlight("red")
    with pytest.raises(SpanError, match="not in the prompt"):
        prompt.highlight("Red fox")
    with pytest.raises(SpanError, match="empty"):
        prompt.highlight("  ")
    with pytest.raises(SpanError, match="only 1 time"):
        prompt.highlight("fox", occurrence=1)


def test_overlapping_occurrences_are_counted():
    with pytest.raises(SpanError, match="3 times"):
        Prompt("aaaa").highlight("aa")


def test_a_span_beyond_the_text_is_refused():
    with pytest.raises(SpanError, match="beyond the text of 3"):
        Prompt("abc", (Span(1, 4),))
    with pytest.raises(SpanError, match="beyond"):
        Prompt("abc").mark(0, 9)


def test_markers_in_text_are_text():
    prompt = Prompt("2**10 and **bold**").highlight("**bold**")
    assert prompt.text == "2**10 and **bold**"
    assert prompt.highlighted == ("**bold**",)


def test_a_missing_field_is_named():
    with pytest.raises(SpanError, match="question"):
        Prompt.format("{question}", {"context": "x"})


@pytest.mark.parametrize("occurrence", ["first", True, 1.0, "ALL"])
def test_an_occurrence_that_means_nothing(occurrence):
    with pytest.raises(SpanError, match="give 0 for the first match"):
        Prompt("Lyon and Lyon").highlight("Lyon", occurrence=occurrence)


@pytest.mark.parametrize("text", [None, ["Lyon"], 3])
def test_only_a_text_can_be_highlighted(text):
    with pytest.raises(SpanError, match="give one text"):
        Prompt("Lyon").highlight(text)
