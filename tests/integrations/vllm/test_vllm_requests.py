"""Highlights as arguments of a request: what is read back, and what is refused. No vLLM is needed."""

from __future__ import annotations

import math

import pytest
from seka_vllm.highlights import Highlights, read_highlights
from seka_vllm.profiles import Profile

from seka_rag import Seka
from seka_rag.errors import SettingError, SpanError


def test_weights_of_tokens_become_spans_and_come_back():
    highlights = Highlights.of_weights([0, 1, 1, 0.5, 0, 0, 1], strength=0.7, bank="facts")
    assert highlights.spans == ((1, 3, 1.0), (3, 4, 0.5), (6, 7, 1.0))
    assert highlights.count == 4
    assert highlights.as_args() == {
        "seka_spans": [1, 3, 3, 4, 6, 7],
        "seka_weights": [1.0, 0.5, 1.0],
        "seka_strength": 0.7,
        "seka_bank": "facts",
    }
    assert read_highlights(highlights.as_args(), 7) == highlights
    assert Highlights.of_weights([0.0, 0.0]) is None


def test_the_part_in_a_chunk_counts_from_its_start():
    highlights = Highlights(((3, 10, 1.0), (12, 20, 0.5)))
    assert highlights.inside(0, 3) == ()
    assert highlights.inside(8, 16) == ((0, 2, 1.0), (4, 8, 0.5))
    assert (
        sum(stop - start for i in range(0, 24, 5) for start, stop, _ in highlights.inside(i, i + 5)) == highlights.count
    )


def test_a_plain_request_has_none():
    assert read_highlights(None) is None
    assert read_highlights({"other": 1}) is None
    assert read_highlights({"seka_spans": []}) is None


@pytest.mark.parametrize(
    ("args", "message", "kind"),
    [
        ({"seka_spans": [0, 5, 3]}, "3 positions", SpanError),
        ({"seka_spans": [5, 5]}, r"\[5, 5\) holds no token", SpanError),
        ({"seka_spans": [-1, 5]}, "holds no token", SpanError),
        ({"seka_spans": [0, 11]}, "beyond the prompt of 10 tokens", SpanError),
        ({"seka_spans": [4, 8, 0, 5]}, r"\[4, 8\) overlaps \[0, 5\)", SpanError),
        ({"seka_spans": [0.5, 2]}, "0.5, which is no token position", SpanError),
        ({"seka_spans": [0, math.inf]}, "inf, which is no token position", SpanError),
        ({"seka_spans": [0, math.nan]}, "nan, which is no token position", SpanError),
        ({"seka_spans": ["0", "2"]}, "'0', which is no token position", SpanError),
        ({"seka_spans": [0, 2], "seka_weights": [1, 1]}, "2 numbers for 1 spans", SpanError),
        ({"seka_spans": [0, 2], "seka_weights": ["a"]}, "seka_weights is no flat list", SpanError),
        ({"seka_spans": [0, 2], "seka_weights": [math.inf]}, "seka_weights is no flat list", SpanError),
        ({"seka_spans": [0, 2], "seka_weights": 2}, "seka_weights is no flat list", SpanError),
        ({"seka_spans": [0, 2], "seka_weights": [-1]}, "the weight -1.0", SpanError),
        ({"seka_spans": [0, 2], "seka_strength": math.inf}, "seka_strength=inf", SettingError),
        ({"seka_spans": [0, 2], "seka_strength": "1"}, "seka_strength='1'", SettingError),
        ({"seka_spans": [0, 2], "seka_strength": [1]}, r"seka_strength=\[1\]", SettingError),
        ({"seka_spans": "0 2"}, "flat list", SettingError),
        ({"seka_strength": 1.0}, "flat list", SettingError),
        ({"seka_probe": True, "seka_spans": [0, 2]}, "steers nothing: leave seka_spans out", SettingError),
        ({"seka_spans": [0, 2], "seka_routing": [math.nan]}, "no flat list of finite", SettingError),
        ({"seka_spans": [0, 2], "seka_routing": 1}, "no flat list of finite", SettingError),
        ({"seka_spans": [0, 2], "seka_routing": "1"}, "no flat list of finite", SettingError),
        ({"seka_spans": [0, 2], "seka_gain": 1}, "unknown arguments seka_gain", SettingError),
    ],
)
def test_what_is_no_highlight(args, message, kind):
    with pytest.raises(kind, match=message):
        read_highlights(args, 10)


def test_a_two_sided_method_takes_no_other_strength():
    one, two = (Profile(None, Seka(gain=0.8, gain_neg=negative), False) for negative in (0.0, 0.4))
    spans = ((0, 2, 1.0),)
    assert one.factor(Highlights(spans, 0.4)) == pytest.approx(0.5)
    one.check_strength(Highlights(spans, 0.4))
    two.check_strength(Highlights(spans, 0.8))
    with pytest.raises(SettingError, match="not in proportion to its gain"):
        two.check_strength(Highlights(spans, 0.4))
