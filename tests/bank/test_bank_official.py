"""Files of the authors' code, in and out."""

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model
from transformers import AutoModelForCausalLM

from seka_rag import ProjectionBank, Seka, steer
from seka_rag.errors import BankError


@pytest.fixture
def files(qwen3, make_bank, tmp_path):
    bank = make_bank(qwen3, layers=[0, 2])
    bank.to_official(tmp_path / "m_pos_proj.pt", tmp_path / "m_neg_proj.pt")
    return bank, tmp_path / "m_pos_proj.pt", tmp_path / "m_neg_proj.pt"


def test_out_and_in_again(qwen3, files):
    bank, plus, minus = files
    raw = torch.load(plus, weights_only=True)
    assert raw["layers"] == [0, 2]
    assert raw["proj"].shape == (2, 2, 16, 16)
    assert torch.allclose(raw["proj"][1], bank.projection(2))
    again = ProjectionBank.from_official(plus, minus, model=qwen3)
    assert again.positive.keys() == again.negative.keys() == {0, 2}
    for layer in (0, 2):
        assert torch.allclose(again.projection(layer), bank.projection(layer), atol=1e-5)
        u, v = again.negative[layer], bank.negative[layer]
        assert torch.allclose(u @ u.mT, v @ v.mT, atol=1e-5)
    assert again.singular_values == {}
    assert "m_pos_proj.pt" in again.learning.method
    assert sorted(p.name for p in plus.parent.iterdir()) == ["m_neg_proj.pt", "m_pos_proj.pt"]


def test_heads_that_were_skipped_stay_so(qwen3, files):
    _, plus, _ = files
    raw = torch.load(plus, weights_only=True)
    raw["proj"][0, 1] = 0
    torch.save(raw, plus)
    assert ProjectionBank.from_official(plus, model=qwen3).ranks.tolist() == [[3, 0], [0, 0], [3, 3]]


def test_the_files_own_layers_count(qwen3, files):
    _, plus, _ = files
    with pytest.raises(BankError, match=r"names its layers \[0, 2\], and layers=\[0, 1\]"):
        ProjectionBank.from_official(plus, model=qwen3, layers=[0, 1])
    torch.save(torch.load(plus, weights_only=True)["proj"], plus)
    with pytest.raises(BankError, match="does not say which layers"):
        ProjectionBank.from_official(plus, model=qwen3)
    assert list(ProjectionBank.from_official(plus, model=qwen3, layers=[0, 2]).positive) == [0, 2]


def test_files_that_were_made_by_their_code(parity, tmp_path):
    """The golden tensors as their builder saves them; then their logits."""
    golden = load_file(parity / "reference.safetensors")
    model = AutoModelForCausalLM.from_pretrained(parity).eval()
    for part in ("pos", "neg"):
        torch.save({"layers": [0, 1, 2, 3], "proj": golden[f"builder.{part}_proj"]}, tmp_path / f"{part}_proj.pt")
    bank = ProjectionBank.from_official(tmp_path / "pos_proj.pt", tmp_path / "neg_proj.pt", model=model)
    inputs = {k: golden[f"enc.single.{k}"] for k in ("input_ids", "attention_mask", "position_ids")}
    with torch.no_grad(), steer(model, bank, golden["enc.single.steer_mask"], Seka(gain=0.8, gain_neg=0.2)):
        logits = model(**inputs).logits[:, -1]
    assert torch.allclose(logits, golden["seka.single.p0.8_n0.2.logits_last"], atol=1e-5)

    expert = {"U_matrices": golden["ada.expert_2.U"], "singular_values": golden["ada.expert_2.S"]}
    assert expert["U_matrices"].isnan().any()
    torch.save({"layers": [0, 1, 2, 3], **expert}, tmp_path / "pos_svd.pt")
    learned = ProjectionBank.from_official(tmp_path / "pos_svd.pt", model=model, energy=0.9)
    skipped = expert["singular_values"].isnan().any(-1)
    assert torch.equal(learned.ranks == 0, skipped)
    for layer, head in (~skipped).nonzero().tolist():
        s, rank = expert["singular_values"][layer, head], int(learned.ranks[layer, head])
        assert s[:rank].sum() / s.sum() >= 0.9 > s[: rank - 1].sum() / s.sum()
        assert torch.equal(learned.singular_values[layer][head, :rank], s[:rank])
        assert torch.equal(learned.positive[layer][head, :, :rank], expert["U_matrices"][layer, head, :, :rank])
    with pytest.raises(BankError, match="energy=0"):
        ProjectionBank.from_official(tmp_path / "pos_svd.pt", model=model, energy=0)


class _Code:
    def __reduce__(self):
        return (os.mkdir, (os.environ["SEKA_TEST_TRAP"],))


@pytest.mark.parametrize("save", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_code_in_a_file_is_refused_and_never_run(qwen3, tmp_path, monkeypatch, save):
    monkeypatch.setenv("SEKA_TEST_TRAP", str(tmp_path / "trap"))
    save({"layers": [0], "proj": _Code()}, tmp_path / "evil_pos_proj.pt")
    with pytest.raises(BankError, match="holds code, which is never run"):
        ProjectionBank.from_official(tmp_path / "evil_pos_proj.pt", model=qwen3)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"layers": [0], "proj": torch.zeros(16, 16)},
            r"expected a stack 'proj' of 4 axes .* found torch.float32 \(16, 16\)",
        ),
        ({"layers": [0]}, "found NoneType"),
        ([1, 2], "found list"),
        ({"layers": [0], "proj": torch.zeros(1, 2, 16, 16).long()}, "found torch.int64"),
        ({"layers": [0, 1], "proj": torch.zeros(1, 2, 16, 16)}, r"holds 1 layers and names \[0, 1\]"),
        ({"layers": [0, 0], "proj": torch.zeros(2, 2, 16, 16)}, r"names \[0, 0\]"),
        ({"layers": ["0"], "proj": torch.zeros(1, 2, 16, 16)}, "names"),
        ({"layers": [9], "proj": torch.zeros(1, 2, 16, 16)}, "layer 9: the model has layers 0 to 2"),
        ({"layers": [0], "proj": torch.zeros(1, 4, 8, 8)}, r"shape \(4, 8, 8\), expected \(2, 16, 16\)"),
        ({"layers": [0], "proj": torch.full((1, 2, 16, 16), torch.nan)}, "not finite"),
        ({"layers": [0], "proj": torch.full((1, 2, 16, 16), 0.5)}, "not an orthogonal projection"),
        ({"layers": [0], "U_matrices": torch.zeros(1, 2, 16, 16)}, "'singular_values' of 3 axes"),
        (
            {"layers": [0], "U_matrices": torch.ones(1, 2, 16, 16), "singular_values": torch.ones(1, 2, 16)},
            "not orthonormal",
        ),
    ],
)
def test_other_content_is_refused(qwen3, tmp_path, content, says):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(BankError, match=says):
        ProjectionBank.from_official(tmp_path / "x.pt", model=qwen3)


def test_damaged_files_are_refused(qwen3, files, tmp_path):
    _, plus, _ = files
    plus.write_bytes(plus.read_bytes()[:500])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name, says in [
        ("m_pos_proj.pt", "damaged"),
        ("text.pt", "damaged|not a"),
        ("empty.pt", "damaged|not a"),
        ("nowhere.pt", "cannot be read: No such file"),
        ("m_pos_proj_tanh.pt", "nonlinear feature map"),
    ]:
        with pytest.raises(BankError, match=says):
            ProjectionBank.from_official(tmp_path / name, model=qwen3)


def test_no_negative_part_no_negative_file(qwen3, make_bank, tmp_path):
    bank = make_bank(qwen3)
    one_sided = ProjectionBank(bank.model, bank.positive)
    with pytest.raises(BankError, match="no negative part"):
        one_sided.to_official(tmp_path / "p.pt", tmp_path / "n.pt")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BankError, match=r"shape \(2, 16, 16\), expected \(4, 16, 16\)"):
        one_sided.to_official(tmp_path / "p.pt")
        ProjectionBank.from_official(tmp_path / "p.pt", model=tiny_model("qwen3", num_key_value_heads=4))
