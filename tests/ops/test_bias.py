"""The shortest vector that all queries of a group score 1, with singular values and without."""

import pytest
import torch

from seka_rag.ops.bias import equal_scores, equal_scores_at_once


def oracle(queries):
    """Directions of less than a hundredth of the largest singular value are not followed."""
    ones = torch.ones(*queries.shape[:-1], 1, dtype=torch.float64)
    return torch.linalg.lstsq(queries.double(), ones, rcond=1e-2, driver="gelsd").solution.squeeze(-1)


@pytest.mark.parametrize("way", [equal_scores, equal_scores_at_once])
@pytest.mark.parametrize("groups", [1, 2, 3, 8])
def test_queries_of_a_group_score_the_same(way, groups):
    torch.manual_seed(0)
    queries = 3 * (torch.randn(4, 5, groups, 64) + torch.randn(4, 5, 1, 64))
    torch.testing.assert_close(way(queries).double(), oracle(queries), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(queries @ way(queries)[..., None], torch.ones(4, 5, groups, 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("way", [equal_scores, equal_scores_at_once])
def test_what_tells_nearly_parallel_queries_apart_is_not_followed(way):
    """It would take an edit of many times the length."""
    torch.manual_seed(0)
    first, other = torch.linalg.qr(torch.randn(64, 2))[0].T
    for scale, apart in ((1.01, 0.003), (1.05, 0.005), (1.02, 0.002), (1.0, 0.0)):
        queries = torch.stack([first, scale * first + apart * other])
        assert (way(queries) - oracle(queries)).norm() < 0.05  # of a length of 1
    assert not way(torch.zeros(2, 64)).any()
