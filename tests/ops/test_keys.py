import oracle
import pytest
import torch

from seka_rag.ops.edits import Part
from seka_rag.ops.keys import plan_edit
from seka_rag.ops.projection import projection


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [2, 7])
def test_edited_keys_equal_the_oracle_and_all_others_are_untouched(dtype, rank):
    torch.manual_seed(0)
    keys = torch.randn(2, 5, 3, 8).to(dtype)
    keys[0, 0, 0, 0] = -0.0
    weights = torch.tensor([[0, 1, 0, 0.5, 0], [0, 0, 0, 0, 2.0]])
    u = torch.linalg.qr(torch.randn(3, 8, 8))[0][:, :, :rank]
    u[1] = 0
    rows, columns = weights.nonzero(as_tuple=True)
    before = keys.clone()
    part = Part(torch.ones(3, dtype=torch.bool), rows, columns, weights[rows, columns], rows)
    edited = plan_edit(u, 0.6).apply(keys, part)
    wanted = oracle.edited_keys(keys.float(), weights.tolist(), projection(u), 0.6)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    assert torch.allclose(edited.double(), torch.tensor(wanted), atol=tolerance, rtol=tolerance)
    assert torch.equal(keys, before)
    bits = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}[dtype]
    unmarked = weights == 0
    assert torch.equal(edited[unmarked].view(bits), keys[unmarked].view(bits))
    assert torch.equal(edited[:, :, 1].contiguous().view(bits), keys[:, :, 1].contiguous().view(bits))
