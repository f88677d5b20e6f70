"""Intervals and tests against scipy, rows and pooled seeds against numbers made by hand."""

import math

import pytest
from scipy.stats import binomtest
from scipy.stats import t as student

from seka_rag.bench.item import Item
from seka_rag.bench.journal import Journal
from seka_rag.bench.methods import Variant
from seka_rag.bench.rates import mean_interval, wilson
from seka_rag.bench.rows import Table
from seka_rag.questions.pairs import mcnemar
from seka_rag.questions.records import Record
from seka_rag.steering.random_projection import RandomProjection
from seka_rag.steering.seka import Seka

RECORD = Record(
    id="r", dataset="d", question="Q?", passages=("P.",), gold_context_answer=("a",), parametric_answer=None,
    highlights=(), meta={},
)  # fmt: skip
PLAIN, STEERED = Variant("plain"), Variant("seka", Seka(gain=1.0), highlight="gold")


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (3, 7), (7, 7), (19, 60), (41, 300)])
def test_wilson_is_that_of_scipy(hits, n):
    of_scipy = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits / n, n) == pytest.approx((of_scipy.low, of_scipy.high), abs=1e-6)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 1), (0, 9), (3, 11), (8, 8), (30, 12)])
def test_mcnemar_is_the_binomial_test_of_scipy(only_first, only_second):
    first = [True] * only_first + [False] * only_second + [True, False]
    second = [False] * only_first + [True] * only_second + [True, False]
    expected = binomtest(only_first, only_first + only_second).pvalue
    assert mcnemar(first, second) == pytest.approx(expected, abs=1e-9)


def test_the_interval_of_a_mean_is_that_of_many_values():
    values = [math.sin(i) for i in range(400)]
    low, high = mean_interval(values)
    mean = sum(values) / 400
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / 399 / 400)
    assert (low, high) == pytest.approx(student.interval(0.95, 10**6, mean, deviation), abs=1e-5)
    assert mean_interval([1.0]) == (-math.inf, math.inf)


def item(name, unit, *groups):
    return Item(id=name, unit=unit, groups=groups, record=RECORD, gold=None, wrong=None, template="{context}{question}")


ITEMS = [
    item("a/0", "a", "ES", "PS"),
    item("a/1", "a", "PS"),
    item("b/0", "b", "ES", "PS"),
    item("c/0", "c", "ES", "PS"),
]


@pytest.fixture
def table(tmp_path):
    journal = Journal(tmp_path / "t.jsonl", {}, [[i.id for i in ITEMS]])
    ids = [i.id for i in ITEMS]
    no = {"first": False, "kl": 0.0, "text": "no"}
    journal.add(PLAIN.key, ids, [no, no, no, {**no, "first": True}])
    journal.add(STEERED.key, ids, [{"first": True, "kl": k, "text": "yes"} for k in (0.1, 0.2, 0.3, 0.5)])
    seeds = [Variant("random-projection", RandomProjection(gain=1.0, seed=s), highlight="gold") for s in range(2)]
    journal.add(seeds[0].key, ids, [{"first": True}, {"first": True}, {"first": False}, {}])
    journal.add(seeds[1].key, ids, [{"first": True}, {"first": False}, {"first": False}, {"first": True}])
    return Table("t", "m", ITEMS, [PLAIN, STEERED, *seeds], journal)


def test_rows_by_hand(table):
    rows = {(r.method, r.settings.get("seed"), r.metric): r for r in table.rows()}
    es = rows["plain", None, "ES.first"]
    assert (es.n, es.value) == (3, pytest.approx(1 / 3, abs=1e-6))
    assert (es.low, es.high) == pytest.approx(wilson(1 / 3, 3), abs=1e-6)
    kl = rows["seka", None, "PS.kl"]  # the paraphrases of a record are averaged first
    assert (kl.n, kl.value) == (3, pytest.approx((0.15 + 0.3 + 0.5) / 3, abs=1e-6))
    assert (kl.low, kl.high) == pytest.approx(mean_interval([0.15, 0.3, 0.5]), abs=1e-6)
    assert not any(r.metric.endswith("text") for r in table.rows())
    assert rows["seka", None, "ES.first"].settings == {
        "method": "Seka", "gain": 1.0, "gain_neg": 0.0, "highlight": "gold", **_unset(STEERED),
    }  # fmt: skip


def _unset(variant):
    return {k: v for k, v in variant.settings.items() if k not in ("method", "gain", "gain_neg", "highlight")}


def test_seeds_are_pooled_by_unit(table):
    pooled = [v for v in table.variants if v.settings.get("seeds")]
    assert len(pooled) == 1
    assert "seed" not in pooled[0].settings
    # a/0: 1 and 1; a/1: 1 and 0; b: 0 and 0; c: left out by the first seed, 1 by the second
    assert table.values(pooled[0], "PS.first") == {"a": 0.75, "b": 0.0, "c": 1.0}
    row = table.row(pooled[0], "PS.first")
    assert (row.n, row.value) == (3, pytest.approx(1.75 / 3, abs=1e-6))
    assert (row.low, row.high) == pytest.approx(wilson(1.75 / 3, 3), abs=1e-6)


def test_comparisons_are_paired(table):
    found = table.compare("ES.first", PLAIN, STEERED)
    assert (found.n, found.only_first, found.only_second, found.p) == (3, 0, 2, 0.5)
    means = table.compare("PS.first", PLAIN, table.variants[-1])  # a: 0 and .75; b: 0 and 0; c: 1 and 1
    assert (means.n, means.only_first, means.only_second, means.p) == (3, 0, 1, 1.0)
    assert table.compare("ES.first", PLAIN, table.variants[2]).n == 2  # units that both have
    assert table.compare("PS.right", PLAIN, STEERED) is None
    every = table.comparisons(["ES.first"], [STEERED, table.variants[2]])
    assert [(c.first, c.second) for c in every if c.first != PLAIN.key] == [(STEERED.key, table.variants[2].key)]
    assert len([c for c in every if c.first == PLAIN.key]) == 4


def test_a_small_p_is_no_zero(tmp_path):
    items = [item(f"{i}", f"{i}", "all") for i in range(40)]
    journal = Journal(tmp_path / "t.jsonl", {}, [[i.id for i in items]])
    for variant, right in ((PLAIN, False), (STEERED, True)):
        journal.add(variant.key, [i.id for i in items], [{"right": right}] * 40)
    found = Table("t", "m", items, [PLAIN, STEERED], journal).compare("all.right", PLAIN, STEERED)
    assert found.p == pytest.approx(binomtest(0, 40).pvalue, rel=1e-2)
