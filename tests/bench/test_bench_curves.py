"""Curves and their values at equal harm, by hand."""

import pytest

from seka_rag.bench.curves import Entry, at_most, best_of_lines, lines
from seka_rag.bench.methods import Variant
from seka_rag.bench.tasks import TASKS
from seka_rag.bench.tasks.base import Curve
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.random_projection import RandomProjection
from seka_rag.steering.seka import Seka


@pytest.mark.parametrize(
    ("points", "harm", "value"),
    [
        ([(0, 0.4), (0.2, 0.8), (1.0, 0.9)], 0.1, 0.6),
        ([(0, 0.4), (0.2, 0.8), (1.0, 0.9)], 0.6, 0.85),
        ([(0, 0.4), (0.2, 0.8)], 0.5, 0.8),  # never so much harm: the best that it does
        ([(0, 0.4), (0.2, 0.8), (0.3, 0.1)], 0.3, 0.8),  # more strength may follow less
        ([(0, 0.4), (0.5, 0.3), (0.1, 0.9)], 0.2, 0.9),  # and harm less
        ([(0, 0.4), (0.5, 0.2)], 0.25, 0.4),  # nothing gained: plain
        ([(0, 0.4), (0.0, 0.7)], 0.0, 0.7),
        ([(0, 0.4)], 0.3, 0.4),
    ],
)
def test_the_most_following_at_a_harm(points, harm, value):
    assert at_most(points, harm) == pytest.approx(value)


PLAIN = Entry.of_variant(Variant("plain"))
WEAK, STRONG = (Entry.of_variant(Variant("seka", Seka(gain=g), highlight="gold")) for g in (0.5, 1.0))
WRONG = Entry.of_variant(Variant("seka", Seka(gain=0.5), highlight="wrong"))
LONE = Entry.of_variant(Variant("key-scaling", KeyScaling(gain=1.0), highlight="gold"))
SEED = Entry.of_variant(Variant("random-projection", RandomProjection(seed=3), highlight="gold"))
FIGURES = {
    PLAIN: {"c.right": 0.2, "i.kl": 0.0, "k.right": 0.9},
    STRONG: {"c.right": 0.8, "i.kl": 0.4, "k.right": 0.7},
    WEAK: {"c.right": 0.5, "i.kl": 0.1, "k.right": 0.95},
    WRONG: {"c.right": 0.1, "i.kl": 0.1, "k.right": 0.9},
    LONE: {"c.right": 0.4},
    SEED: {"c.right": 0.4, "i.kl": 0.1, "k.right": 0.9},
}


def test_a_line_for_each_method_and_highlight_in_the_order_of_strength():
    seka, wrong = lines(FIGURES, Curve("c.right", "i.kl"))  # without what lacks a metric, and single seeds
    assert (seka.name, wrong.name) == ("seka", "seka, wrong")
    assert seka.points == ((0.0, 0.2), (0.1, 0.5), (0.4, 0.8))
    assert seka.at(0.25) == pytest.approx(0.65)
    assert (seka.best(0.25), seka.best(0.5), seka.best(0.05)) == (WEAK, STRONG, None)


def test_harm_as_what_is_lost():
    seka = lines(FIGURES, Curve("c.right", "k.right", loss=True))[0]
    assert [p[0] for p in seka.points] == pytest.approx([0.0, 0.0, 0.2])  # better than plain is no harm


def test_wordings_are_points_and_no_curve():
    weak, strong = (Entry.of_variant(Variant("instruction", before=text)) for text in ("Read.", "Obey."))
    figures = {PLAIN: {"c": 0.4, "kl": 0.0}, weak: {"c": 0.5, "kl": 0.1}, strong: {"c": 0.9, "kl": 0.3}}
    (line,) = lines(figures, Curve("c", "kl"))
    assert [line.at(harm) for harm in (0.05, 0.2, 0.3)] == [0.4, 0.5, 0.9]


def test_what_is_won_where_the_highlight_answers_hides_no_harm():
    """A steering that follows everything and forgets everything."""
    groups = ("correction", "agreement", "novel", "irrelevant", "kept")  # the last one: all but the first together
    values = {PLAIN: (0.4, 0.4, 0.4, 0.5, 0.43), STRONG: (1.0, 0.9, 0.9, 0.0, 0.6)}
    figures = {e: {f"{g}.right": v for g, v in zip(groups, some, strict=True)} for e, some in values.items()}
    for curve in TASKS["conflict-rag"].curves:
        for line in lines(figures, curve):
            assert curve.loss
            assert line.at(0.05) == pytest.approx(0.46)  # a tenth of the way to it


def test_the_best_of_a_line_is_of_no_single_seed():
    figures = {PLAIN: {"c": 0.1}, WEAK: {"c": 0.5}, STRONG: {"c": 0.8}, SEED: {"c": 0.9}}
    assert best_of_lines(figures, "c") == [PLAIN, STRONG]


def test_entries_in_words():
    assert (STRONG.strength, STRONG.detail, WRONG.highlight) == (1.0, "gain 1", "wrong")
    assert SEED.detail == "gain 1, seed 3"
    assert (PLAIN.strength, PLAIN.detail) == (None, "")
    assert Entry.of_variant(Variant("instruction", before="Read.")).detail == "“Read.”"
