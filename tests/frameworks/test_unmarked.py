"""Passages are there and nothing is marked: told once, an error, or ignored."""

from __future__ import annotations

import logging
import warnings

import pytest

from seka_rag import Span
from seka_rag.errors import SettingError, SteeringError
from seka_rag.frameworks import Highlights, UnmarkedWarning, decide
from seka_rag.frameworks.unmarked import as_on_unmarked, forget_causes

NOTHING = Highlights(warnings=("w",), unmarked="change this")
TOLD = "passages were retrieved and nothing is highlighted: change this"


@pytest.fixture(autouse=True)
def _nothing_told():
    forget_causes()
    yield
    forget_causes()


def test_a_log_record_and_a_warning_once_for_each_cause(caplog):
    with caplog.at_level(logging.WARNING, "seka_rag"), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for highlights in (NOTHING, NOTHING, Highlights(unmarked="change that"), NOTHING):
            decided = decide(highlights, "warn")
            assert decided.warnings[-1] == highlights.unmarked  # the report has it each time
            assert decided.unmarked is None
    assert [r.message for r in caplog.records] == [TOLD, TOLD.replace("this", "that")]
    assert [w.category for w in told] == [UnmarkedWarning] * 2
    assert str(told[0].message).startswith(TOLD)


def test_an_error(caplog):
    with pytest.raises(SteeringError, match=TOLD):
        decide(NOTHING, "raise")
    assert not caplog.records


def test_ignored(caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decide(NOTHING, "ignore").warnings == ("w", "change this")
        told = Highlights(warnings=("message 0: change this",), unmarked="change this")
        assert decide(told, "ignore").warnings == told.warnings
    assert not caplog.records


@pytest.mark.parametrize(
    ("source", "raises"), [("a.txt", False), (None, False), ("question", True), ("instructions", True)]
)
def test_what_counts_as_marked(source, raises):
    """A highlight in the passages, or by hand; not the question or instructions beside them."""
    highlights = Highlights(((0, Span(0, 1, 1.0, source)),), (), "change this")
    if raises:
        with pytest.raises(SteeringError):
            decide(highlights, "raise")
    else:
        assert decide(highlights, "raise") == Highlights(highlights.spans)
    assert decide(Highlights(highlights.spans), "raise") == Highlights(highlights.spans)


@pytest.mark.parametrize("wrong", ["error", None, True, "off"])
def test_other_values(wrong):
    with pytest.raises(SettingError, match="'warn', 'raise' or 'ignore'"):
        as_on_unmarked(wrong)


def test_old_causes_are_forgotten(monkeypatch):
    from seka_rag.frameworks import unmarked

    monkeypatch.setattr(unmarked, "_MOST_CAUSES", 2)
    for cause in ("a", "b", "c", "a"):
        with pytest.warns(UnmarkedWarning, match=cause):
            decide(Highlights(unmarked=cause), "warn")
