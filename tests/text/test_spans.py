import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seka_rag import Span
from seka_rag.errors import SpanError
from seka_rag.text.spans import clip, merge, shift

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
    ],
)
def test_bad_spans_say_why(start, end, weight, says):
    with pytest.raises(SpanError, match=says):
        Span(start, end, weight)
