import random

import pytest
from scipy.stats import binomtest, norm, sem

from seka_rag.bench.rates import Rate, mean_interval, wilson
from seka_rag.questions.pairs import mcnemar


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_intervals_as_published(hits, n, low, high):
    assert Rate(hits, n).interval == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@pytest.mark.parametrize("n", range(1, 60))
def test_none_and_all_have_whole_bounds(n):
    assert wilson(0.0, n)[0] == 0.0
    assert wilson(1.0, n)[1] == 1.0


def test_rates():
    assert Rate.of([True, False, True]) == Rate(2, 3)
    assert str(Rate(1, 2)) == "0.500 [0.095, 0.905]"
    assert Rate(0, 0).interval == (0.0, 1.0)


def test_mcnemar_is_the_exact_binomial():
    first = [True] * 9 + [False] + [True] * 5
    second = [False] * 9 + [True] + [True] * 5
    assert mcnemar(first, second) == pytest.approx(22 / 1024)
    assert mcnemar([True], [True]) == 1.0
    with pytest.raises(ValueError, match="argument"):
        mcnemar([True], [])


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (3, 7), (50, 100), (99, 100), (17, 1234)])
def test_wilson_intervals_are_those_of_scipy(hits, n):
    assert wilson(hits / n, n) == pytest.approx(tuple(binomtest(hits, n).proportion_ci(method="wilson")), abs=1e-6)


def test_mcnemar_is_the_binomial_test_of_scipy():
    rng = random.Random(0)
    for n in (1, 5, 40, 200):
        first, second = ([rng.random() < p for _ in range(n)] for p in (0.5, 0.65))
        only, other = (
            sum(x and not y for x, y in zip(a, b, strict=True)) for a, b in ((first, second), (second, first))
        )
        expected = binomtest(only, only + other).pvalue if only + other else 1.0
        assert mcnemar(first, second) == pytest.approx(expected)


def test_intervals_of_means_are_those_of_scipy():
    values = [0.1, 0.5, 0.2, 0.9]
    low, high = norm.interval(0.95, loc=sum(values) / 4, scale=sem(values))
    assert mean_interval(values) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))
