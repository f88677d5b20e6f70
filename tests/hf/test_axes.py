"""The notation of axes: what is read was put there, and what is written touches nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.axes import read_heads, write_heads

B, T, D = 2, 3, 4
FUSED = ["qkv", "qvk", "Hqkv", "4qvk", "2qkv", "kv", "Hkv"]


def packed(axes, heads, groups):
    """An output written slot by slot, and the queries and keys that are in it."""
    parts = axes.lstrip("H0123456789")
    blocks = heads if axes[0] == "H" else int(axes[: -len(parts)] or 1)
    count = {"q": groups, "k": 1, "v": 1}
    whole = {p: torch.randn(B, T, heads * count[p], D) for p in "qkv"}
    slots = []
    for block in range(blocks):
        for part in parts:
            each = heads * count[part] // blocks
            slots += [whole[part][:, :, block * each + i] for i in range(each)]
    return torch.cat(slots, -1), whole


@pytest.mark.parametrize("axes", FUSED)
@given(factor=st.integers(1, 3), groups=st.integers(1, 4), seed=st.integers(0, 9))
def test_fused_projections(axes, factor, groups, seed):
    torch.manual_seed(seed)
    output, whole = packed(axes, 4 * factor, groups)
    for part in sorted({"q", "k"} & set(axes)):
        assert torch.equal(read_heads(output, f"BT({axes})", part, D, groups), whole[part])
        new = torch.randn_like(whole[part])
        written = write_heads(output, new, f"BT({axes})", part, D, groups)
        assert torch.equal(read_heads(written, f"BT({axes})", part, D, groups), new)
        back = write_heads(written, whole[part], f"BT({axes})", part, D, groups)
        assert torch.equal(back, output)


@pytest.mark.parametrize("axes", ["BTHD", "BHTD", "BT(HD)"])
def test_plain_axes(axes):
    keys = torch.randn(B, T, 5, D)
    output = {"BTHD": keys, "BHTD": keys.transpose(1, 2), "BT(HD)": keys.flatten(-2)}[axes]
    assert torch.equal(read_heads(output, axes, "k", D, 2), keys)
    assert torch.equal(write_heads(output, keys + 1, axes, "k", D, 2), output + 1)


def test_writing_leaves_the_given_output_alone():
    output, whole = packed("qkv", 2, 2)
    before = output.clone()
    write_heads(output, whole["k"] * 2, "BT(qkv)", "k", D, 2)
    assert torch.equal(output, before)


def test_axes_that_mean_nothing_are_refused():
    with pytest.raises(UnsupportedModelError, match="'TBHD' mean nothing"):
        read_heads(torch.zeros(1, 1, 8), "TBHD", "k", D, 1)
