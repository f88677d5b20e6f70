import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import matrix_of

from seka_rag.ops.keys import plan_edit
from seka_rag.ops.projection import factor_of, projection, rank_for_energy


def orthonormal(seed, heads=2, d=12, rank=4):
    noise = torch.randn(heads, d, d, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(noise)[0][:, :, :rank]


@pytest.mark.parametrize(("energy", "rank"), [(0.5, 1), (0.6, 2), (0.9, 3), (0.95, 4), (1.0, 4)])
def test_rank_is_the_smallest_that_holds_the_energy(energy, rank):
    s = torch.tensor([[5.0, 3.0, 1.4, 0.6]], dtype=torch.float64)
    assert rank_for_energy(s, energy).tolist() == [rank]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 12))
def test_factors_of_a_projection_give_it_back(seed, rank):
    p = projection(orthonormal(seed, rank=rank))
    assert torch.allclose(projection(factor_of(p)).float(), p, atol=1e-5)
    assert factor_of(p).shape[-1] == rank


def test_heads_of_different_ranks_share_one_padded_factor():
    p = torch.stack([projection(orthonormal(1, 1, rank=2))[0], torch.zeros(12, 12)])
    assert torch.allclose(projection(factor_of(p)).float(), p, atol=1e-5)


@pytest.mark.parametrize(
    "bad", [torch.eye(12)[None] * 0.5, torch.ones(1, 12, 12).triu(), torch.full((1, 12, 12), float("nan"))]
)
def test_what_is_no_projection_is_refused(bad):
    with pytest.raises(ValueError, match="not an orthogonal projection"):
        factor_of(bad)


@pytest.mark.parametrize("rank", [3, 9])
def test_low_rank_and_dense_plans_are_the_same_matrix(rank):
    u = orthonormal(3, rank=rank)
    edit = plan_edit(u, 0.7)
    assert (edit.up is None) == (2 * rank >= 12)
    assert torch.allclose(matrix_of(edit), 0.7 * projection(u), atol=1e-6)


def test_the_negative_part_halves_only_when_it_is_asked_for():
    u, n = orthonormal(1), orthonormal(2)
    assert torch.allclose(matrix_of(plan_edit(u, 0.8, n, 0.0)), 0.8 * projection(u), atol=1e-6)
    both = matrix_of(plan_edit(u, 0.8, n, 0.2))
    assert torch.allclose(both, (0.8 * projection(u) + 0.2 * projection(n)) / 2, atol=1e-6)


def test_gain_zero_and_empty_heads_plan_nothing():
    assert plan_edit(orthonormal(1), 0.0) is None
    assert plan_edit(torch.zeros(2, 12, 4), 1.0) is None
    some = orthonormal(1)
    some[0] = 0
    assert plan_edit(some, 1.0).heads.tolist() == [1]
