import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seka_rag import Span
from seka_rag.errors import SpanError
from seka_rag.text.spans import clip, merge, overlapping, shift

spans = st.builds(
    lambda s, n, w: Span(s, s + n, w), st.integers(0, 40), st.integers(1, 20), st.sampled_from([0.0, 0.5, 1.0, 2.0])
)


def weight_of(many, i):
    return max((s.weight for s in many if s.start <= i < s.end), default=None)


@given(st.lists(spans, max_size=8))
def test_merge_is_disjoint_ordered_and_keeps_the_largest_weight_of_every_character(many):
    merged = merge(many)
    assert all(a.end <= b.start for a, b in itertools.pairwise(merged))
    assert [weight_of(merged, i) for i in range(70)] == [weight_of(many, i) for i in range(70)]


@given(st.lists(spans, max_size=6), st.integers(0, 30))
def test_shift_and_back_changes_nothing(many, by):
    assert shift(shift(many, by), -by) == tuple(many)


@given(st.lists(spans, max_size=6), st.integers(0, 30), st.integers(1, 40))
def test_clip_keeps_exactly_what_is_inside(many, start, length):
    end = start + length
    clipped = clip(many, start, end)
    for i in range(70):
        inside = start <= i < end
        assert weight_of(clipped, i) == (weight_of(many, i) if inside else None)


def test_merge_joins_neighbours_of_equal_weight():
    assert merge([Span(0, 3), Span(3, 5)]) == (Span(0, 5),)
    assert merge([Span(0, 3), Span(3, 5, 0.5)]) == (Span(0, 3), Span(3, 5, 0.5))


@pytest.mark.parametrize(
    ("start", "end", "weight", "says"),
    [
        (-1, 3, 1.0, "count from 0"),
        (3, 3, 1.0, "empty"),
        (4, 3, 1.0, "empty"),
        (0, 1, -1.0, "weight"),
        (0, 1, math.nan, "weight"),
        (0, 1, math.inf, "weight"),
        (0, 1.5, 1.0, "span end 1.5: give a whole number"),
        (0, 2.0, 1.0, "span end"),
        ("0", 1, 1.0, "span start '0'"),
        (None, 1, 1.0, "span start"),
        (False, 1, 1.0, "span start False"),
        (0, True, 1.0, "span end True"),
        (0, np.float64(1), 1.0, "span end"),
        (np.bool_(0), 1, 1.0, "span start"),
        (0, math.nan, 1.0, "span end nan"),
        (0, 1, "1", "weight '1'"),
        (0, 1, True, "weight True"),
        (0, 1, None, "weight None"),
        (0, 1, np.float32("nan"), "weight"),
        (0, 1, 10**400, "weight 1000"),
        (0, 1, 1j, "weight"),
    ],
)
def test_bad_spans_say_why(start, end, weight, says):
    with pytest.raises(SpanError, match=says):
        Span(start, end, weight)


def test_numbers_of_numpy_are_plain_ones_afterwards():
    span = Span(np.int64(2), np.uint8(5), np.float32(0.5))
    assert span == Span(2, 5, 0.5)
    assert [type(v) for v in (span.start, span.end, span.weight)] == [int, int, float]


def test_a_source_is_a_name():
    with pytest.raises(SpanError, match="span source 3"):
        Span(0, 1, source=3)


def by_definition(many):
    """Every stretch between two borders, with the heaviest span over it, of equals the first."""
    edges = sorted({edge for s in many for edge in (s.start, s.end)})
    pieces = []
    for start, end in itertools.pairwise(edges):
        over = [s for s in many if s.start <= start and s.end >= end]
        if over:
            best = max(over, key=lambda s: s.weight)
            pieces.append((start, end, best.weight, best.source))
    return pieces


sourced = st.builds(
    Span, st.integers(0, 20), st.integers(21, 40), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from("abc")
)


@given(st.lists(spans | sourced, max_size=9))
def test_merge_is_its_definition(many):
    pieces = [(i, i + 1, w, source) for start, end, w, source in by_definition(many) for i in range(start, end)]
    assert [(i, i + 1, s.weight, s.source) for s in merge(many) for i in range(s.start, s.end)] == pieces


@given(st.lists(spans, max_size=9), st.integers(0, 60), st.integers(0, 30))
def test_overlapping_finds_those_that_share_a_character(many, start, length):
    disjoint = merge(many)
    found = list(overlapping(disjoint, start, start + length))
    assert found == [s for s in disjoint if {*range(s.start, s.end)} & {*range(start, start + length)}]


def test_many_spans_merge_in_linear_time():
    merged = merge(Span(i, i + 5_000, 1.0 + i % 3) for i in range(50_000))
    assert merged[-1].end == 54_999
