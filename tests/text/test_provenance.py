import html

import pytest
from growth import check_linear
from hypothesis import given
from hypothesis import strategies as st

from seka_rag import Span
from seka_rag.errors import ProvenanceError
from seka_rag.frameworks import locate_values

TEMPLATE = "System: answer from {context} only.\nQ: {question}\nAgain: {context}\nA:"


def test_every_value_is_found_where_the_template_put_it():
    values = {"context": "answer from x", "question": "answer from x"}
    text, places = locate_values(lambda v: TEMPLATE.format(**v), values)
    assert text == TEMPLATE.format(**values)
    assert [p.name for p in places] == ["context", "question", "context"]
    assert all(text[p.start : p.end] == values[p.name] for p in places)


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_value_can_move_another(context, question):
    text, places = locate_values(lambda v: TEMPLATE.format(**v), {"context": context, "question": question})
    prefix = TEMPLATE.split("{context}")[0]
    assert (places[0].start, places[0].end) == (len(prefix), len(prefix) + len(context))
    assert text[places[1].start : places[1].end] == question


def test_stripping_templates_are_followed():
    _, (place,) = locate_values(lambda v: "<" + v["a"].strip() + ">", {"a": "  hello world \n"})
    assert (place.start, place.end, place.offset) == (1, 12, 2)
    assert place.place((Span(0, 7),)) == (Span(1, 6),)


@pytest.mark.parametrize("change", [str.upper, html.escape, lambda s: s.replace(" ", "_")])
def test_a_template_that_changes_its_value_is_refused(change):
    with pytest.raises(ProvenanceError, match="literally"):
        locate_values(lambda v: "<" + change(v["a"]) + ">", {"a": "a <b> c"})


def test_a_template_that_depends_on_its_value_is_refused():
    with pytest.raises(ProvenanceError):
        locate_values(lambda v: v["a"] + ("!" if v["a"] == "x" else "?"), {"a": "x"})


def test_time_is_linear_in_the_number_of_values():
    def locate(n):
        values = {f"v{i}": f"value {i}" for i in range(n)}
        text, places = locate_values(lambda v: "\n".join(v.values()), values)
        assert [text[p.start : p.end] for p in places] == [*values.values()]

    check_linear(locate, 500)


def test_values_that_fit_in_many_ways_end_in_time():
    """White space may be stripped or not, so 60 values of white space fit in 2**60 ways."""
    values = {f"v{i}": "  " for i in range(60)}
    with pytest.raises(ProvenanceError):
        locate_values(lambda v: "".join(v.values()) + ("!" if v["v0"] == "  " else "?"), values)
