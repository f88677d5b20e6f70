import pytest

from seka_rag.bench.rates import Rate, mcnemar


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_intervals_as_published(hits, n, low, high):
    assert Rate(hits, n).interval == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


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
