import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from seka_rag import ProjectionBank
from seka_rag.bank import Learning
from seka_rag.errors import BankError
from seka_rag.heatmap import draw_bank
from seka_rag.hf.identity import identify


@pytest.fixture
def bank(qwen3, make_bank):
    return make_bank(qwen3, layers=[1, 2])


def same(a, b):
    return (
        a.model == b.model
        and a.positive.keys() == b.positive.keys()
        and all(torch.equal(a.positive[i], b.positive[i]) for i in a.positive)
        and all(torch.equal(a.negative[i], b.negative[i]) for i in a.negative)
        and a.singular_values.keys() == b.singular_values.keys()
        and all(torch.equal(a.singular_values[i], b.singular_values[i]) for i in a.singular_values)
        and torch.equal(a.gap, b.gap)
        and a.learning == b.learning
        and a.suggested_gain == b.suggested_gain
    )


def test_saved_and_loaded_is_the_same(bank, tmp_path):
    bank.save(tmp_path / "bank")
    again = ProjectionBank.load(tmp_path / "bank")
    assert same(bank, again)
    assert again.digest == bank.digest
    assert sorted(p.name for p in (tmp_path / "bank").iterdir()) == ["bank.json", "bank.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["bank"]
    again.save(tmp_path / "bank")  # over itself


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(0, 16), st.floats(0, 5))
def test_any_bank_survives_the_disk(tmp_path_factory, seed, rank, gain):
    from tiny import random_bank, tiny_model

    model = tiny_model("qwen3")
    bank = random_bank(model, seed, rank)
    bank.suggested_gain = gain
    folder = tmp_path_factory.mktemp("b") / "bank"
    assert same(bank, ProjectionBank.load(bank.save(folder)))


def test_ranks_and_projections(bank, qwen3):
    assert bank.singular_values == {}
    assert bank.ranks.tolist() == [[0, 0], [3, 3], [3, 3]]
    p = bank.projection(1)
    assert torch.allclose(p @ p, p, atol=1e-5)
    with pytest.raises(BankError, match=r"no layer 0; it has \[1, 2\]"):
        bank.projection(0)
    assert "4 of 6 heads" in repr(bank)


def test_folders_with_other_files_are_not_replaced(bank, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BankError, match=r"notes\.txt"):
        bank.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(BankError, match="is a file"):
        bank.save(tmp_path / "notes.txt")


def test_damage_is_named(bank, tmp_path):
    good = bank.save(tmp_path / "good")

    def damaged(change):
        folder = tmp_path / "bad"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        change(folder)
        return folder

    def truncate(folder):
        data = (folder / "bank.safetensors").read_bytes()
        (folder / "bank.safetensors").write_bytes(data[: len(data) // 2])

    def header(**values):
        def change(folder):
            data = json.loads((folder / "bank.json").read_text())
            (folder / "bank.json").write_text(json.dumps({**data, **values}))

        return change

    cases = [
        (truncate, "damaged: its content does not match"),
        (header(format_version=99), "format 99"),
        (header(surprise=1), r"bank\.json is damaged"),
        (lambda f: (f / "bank.json").write_text("{"), r"bank\.json is damaged"),
        (lambda f: (f / "bank.json").unlink(), "is missing"),
        (lambda f: (f / "bank.safetensors").unlink(), "is missing"),
    ]
    for change, says in cases:
        with pytest.raises(BankError, match=says):
            ProjectionBank.load(damaged(change))
    with pytest.raises(BankError, match="not a bank"):
        ProjectionBank.load(tmp_path / "nowhere")


def _tampered(bank, tmp_path, name, change):
    """A bank whose tensors were changed by somebody who also fixed the checksum."""
    import hashlib

    folder = bank.save(tmp_path / "t")
    tensors = load_file(folder / "bank.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / "bank.safetensors")
    data = json.loads((folder / "bank.json").read_text())
    data["tensors_sha256"] = hashlib.sha256((folder / "bank.safetensors").read_bytes()).hexdigest()
    (folder / "bank.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("positive.1", lambda t: t * 1.5, "not orthonormal"),
        ("positive.1", lambda t: t * float("nan"), "not finite"),
        ("positive.1", lambda t: t[:, :8], "shape"),
        ("gap", lambda t: t[:1], "gap: shape"),
    ],
)
def test_tensors_that_cannot_be_a_bank_are_refused(bank, tmp_path, name, change, says):
    with pytest.raises(BankError, match=says):
        ProjectionBank.load(_tampered(bank, tmp_path, name, lambda t: change(t).contiguous()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s[:, :-1], "shape"),
        (lambda s: -s, "negative"),
        (lambda s: s * float("nan"), "not finite"),
        (lambda s: s * 0, "zero for a kept column"),
    ],
)
def test_singular_values_must_belong_to_the_factors(bank, change, says):
    good = {layer: torch.ones(2, 3) for layer in bank.positive}
    ProjectionBank(bank.model, bank.positive, singular_values=good)
    with pytest.raises(BankError, match=f"singular values of layer 2.*{says}"):
        ProjectionBank(bank.model, bank.positive, singular_values={**good, 2: change(good[2])})
    with pytest.raises(BankError, match="singular values for layers"):
        ProjectionBank(bank.model, bank.positive, singular_values={1: good[1]})


def test_a_layer_that_the_model_lacks_is_refused(bank):
    with pytest.raises(BankError, match="layers 0 to 2"):
        ProjectionBank(bank.model, {7: bank.positive[1]})


def test_the_identity_names_each_field_that_differs(qwen3, bank):
    from tiny import tiny_model

    wider = identify(tiny_model("qwen3", num_key_value_heads=4))
    with pytest.raises(BankError, match=r"config_digest .*heads \(bank: 2, model: 4\)"):
        bank.model.check(wider)
    bank.model.check(identify(qwen3))


def test_matrices_from_elsewhere_are_checked(qwen3):
    with pytest.raises(BankError, match=r"layer 0: shape \(2, 4, 4\)"):
        ProjectionBank.from_projections(qwen3, {0: torch.zeros(2, 4, 4)})
    with pytest.raises(BankError, match="layer 0: not an orthogonal projection"):
        ProjectionBank.from_projections(qwen3, {0: torch.full((2, 16, 16), 0.5)})


def test_a_bank_can_be_drawn(bank, tmp_path):
    bank.gap[1, 0] = 2.0
    picture = draw_bank(bank, tmp_path / "bank.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert draw_bank(bank, tmp_path / "bank.svg").read_text().count("<svg") == 1


def test_what_was_learned_is_kept(qwen3, bank):
    assert bank.learning == Learning(method="given projections")
