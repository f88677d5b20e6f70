"""Marks beside a text: written, read back, and refused where they are of another text or form."""

from __future__ import annotations

import json

import pytest

from seka_rag import Span
from seka_rag.errors import SpanError
from seka_rag.frameworks import Marks, digest, is_report, read_marks, read_span, write_marks

TEXT = "Greta has a workshop."
SPANS = (Span(0, 5, 0.5, "a.txt"), Span(12, 20))


def test_there_and_back_through_json():
    marks = json.loads(json.dumps(write_marks(TEXT, SPANS, warnings=["w"], unmarked="why")))
    assert read_marks(marks, TEXT) == Marks(SPANS, ("w",), "why")
    assert write_marks(TEXT, SPANS) == {
        "version": 1,
        "digest": digest(TEXT),
        "spans": [[0, 5, 0.5, "a.txt"], [12, 20, 1.0, None]],
    }


def test_another_text_or_version_drops_the_spans_and_says_so():
    marks = write_marks(TEXT, SPANS, warnings=["w"])
    why = "its text changed after it was highlighted; the highlights were dropped"
    assert read_marks(marks, TEXT + "!") == Marks((), ("w", why), why)
    newer = read_marks({**marks, "version": 2}, TEXT)
    assert newer.spans == ()
    assert "version 2" in newer.warnings[1]
    assert newer.unmarked == newer.warnings[1]
    assert read_marks(write_marks(TEXT, ()), "another text") == Marks()


@pytest.mark.parametrize(
    "marks",
    ["x", {}, {"spans": [[0, 1]]}, {"digest": "", "spans": 3}, [], {**write_marks(TEXT, ()), "spans": [[0]]}],
)
def test_other_forms_are_refused(marks):
    with pytest.raises(SpanError, match="mark_message"):
        read_marks(marks, TEXT)


@pytest.mark.parametrize(
    "entry", [[], [0], [0, 1, 1, None, 1], ["0", 1], [0, 1.5], [0, True], [0, 1, "1"], [0, 1, True], "01", 3]
)
def test_spans_of_other_forms_are_refused(entry):
    with pytest.raises(SpanError, match="highlight"):
        read_span(entry)


def test_spans_beyond_the_text_are_refused():
    with pytest.raises(SpanError, match="beyond"):
        write_marks(TEXT, [Span(0, 99)])
    with pytest.raises(SpanError, match="beyond"):
        read_marks({**write_marks(TEXT, ()), "spans": [[0, 99]]}, TEXT)


def test_a_report_is_told_from_marks():
    assert is_report({"highlights": [], "method": "Seka"})
    assert not is_report(write_marks(TEXT, ()))
    assert not is_report("x")
