import hashlib
import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from seka_rag import KeyScaling, ProjectionBank, learn_bank
from seka_rag.bank import Learning
from seka_rag.bank.card import model_card
from seka_rag.bank.checks import kept_columns
from seka_rag.bank.folders import read_folder, write_folder
from seka_rag.demo.trials import demo_triples
from seka_rag.errors import BankError
from seka_rag.hf.identity import identify
from seka_rag.ops.projection import keep_columns
from seka_rag.steering.registry import suggested
from seka_rag.views.banks import draw_bank


@pytest.fixture
def bank(qwen3, make_bank):
    return make_bank(qwen3, layers=[1, 2])


@pytest.fixture(scope="module")
def learned(qwen3, tokenizer):
    return learn_bank(qwen3, demo_triples(12), tokenizer=tokenizer)


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
        and a.steering == b.steering
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
@given(data=st.data(), seed=st.integers(0, 99), gain=st.floats(0, 5))
def test_any_bank_survives_the_disk(tmp_path_factory, qwen3, data, seed, gain):
    generator = torch.Generator().manual_seed(seed)
    identity = identify(qwen3)

    def factors(layers):
        made = {}
        for layer in layers:
            u = torch.linalg.qr(torch.randn(2, 16, 16, generator=generator))[0]
            ranks = data.draw(st.tuples(st.integers(0, 16), st.integers(0, 16)))
            made[layer] = keep_columns(u, torch.zeros(2).long(), torch.tensor(ranks))[..., : max(ranks)]
        return made

    layers = data.draw(st.sets(st.integers(0, 2)))
    positive = factors(layers)
    values = {i: kept_columns(u) * (torch.rand(2, u.shape[2], generator=generator) + 0.1) for i, u in positive.items()}
    bank = ProjectionBank(
        identity,
        positive,
        factors(layers) if data.draw(st.booleans()) else None,
        torch.rand(3, 2, generator=generator),
        Learning(triples=seed, heads=data.draw(st.text())),
        gain,
        values if data.draw(st.booleans()) else None,
    )
    folder = tmp_path_factory.mktemp("b") / "bank"
    again = ProjectionBank.load(bank.save(folder))
    assert same(bank, again)
    assert bank.digest == again.digest


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


def _json(**values):
    def change(folder):
        data = json.loads((folder / "bank.json").read_text())
        (folder / "bank.json").write_text(json.dumps({**data, **values}))

    return change


def test_a_bank_of_the_format_before_still_loads(bank, tmp_path):
    folder = bank.save(tmp_path / "bank")
    header = json.loads((folder / "bank.json").read_text())
    del header["steering"]
    (folder / "bank.json").write_text(json.dumps({**header, "format_version": 2, "suggested_gain": 0.8}))
    again = ProjectionBank.load(folder)
    assert again.steering == {"method": "Seka", "gain": 0.8}
    assert (again.suggested_gain, again.digest) == (0.8, bank.digest)


def test_a_bank_says_which_method_to_start_with(bank, tmp_path):
    assert bank.steering == {"method": "Seka", "gain": 0.5}
    form = KeyScaling(gain=0.25, layers=(2,)).as_dict()
    other = ProjectionBank(bank.model, bank.positive, gap=bank.gap, steering=form)
    again = ProjectionBank.load(other.save(tmp_path / "bank"))
    assert again.steering == again.select(layers=[2]).steering == form
    assert suggested(again) == KeyScaling(gain=0.25, layers=(2,))
    assert "KeyScaling (layers [2], gain 0.25)" in model_card(again, "ada/bank")
    with pytest.raises(BankError, match="cannot be stored"):
        ProjectionBank(bank.model, bank.positive, suggested_gain=float("inf"))
    with pytest.raises(BankError, match="cannot be stored"):
        ProjectionBank(bank.model, bank.positive, steering={"method": "Seka", "gain": torch.ones(1)})
    for form, says in (
        ({"method": "Nothing"}, "'Nothing', which is not known here"),
        ({"method": "Seka", "g": 1}, "suggests"),
    ):
        with pytest.raises(BankError, match=says):
            suggested(ProjectionBank(bank.model, bank.positive, steering=form))


def _text(text):
    return lambda folder: (folder / "bank.json").write_text(text)


def _truncate(name):
    def change(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return change


def _flip(folder):
    data = bytearray((folder / "bank.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "bank.safetensors").write_bytes(data)


def _directory(folder):
    (folder / "bank.safetensors").unlink()
    (folder / "bank.safetensors").mkdir()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_truncate("bank.safetensors"), r"bank\.safetensors is damaged: its \d+ bytes do not match"),
        (_truncate("bank.json"), r"bank\.json is damaged"),
        (_flip, r"bank\.safetensors is damaged: its \d+ bytes do not match"),
        (_json(format_version=1), r"has format 1; this version of seka-rag reads 2 and 3"),
        (_json(format_version=99, later="field"), r"has format 99; this version of seka-rag reads 2 and 3"),
        (_json(format_version="3"), r"bank\.json is damaged: it has no format_version"),
        (_json(surprise=1), r"bank\.json is damaged.*surprise"),
        (_json(model={"model_type": "qwen3"}), r"bank\.json is damaged.*config_digest"),
        (_json(steering={"method": "Seka", "gain": float("nan")}), r"damaged.*cannot be stored"),
        (_json(steering={"gain": 1.0}), r"damaged.*stored form of a method"),
        (_json(steering=None), r"bank\.json is damaged.*steering"),
        (_json(format_version=2), r"bank\.json is damaged: suggested_gain is None"),
        (_text("{"), r"bank\.json is damaged"),
        (_text("[]"), r"bank\.json is damaged"),
        (_text("[" * 100_000), r"bank\.json is damaged"),
        (lambda f: (f / "bank.json").write_bytes(b"\xff\xfe"), r"bank\.json is damaged"),
        (lambda f: (f / "bank.json").unlink(), r"not a bank: .*bank\.json is missing"),
        (lambda f: (f / "bank.safetensors").unlink(), r"not a bank: .*bank\.safetensors is missing"),
        (_directory, "cannot be read"),
        (shutil.rmtree, r"not a bank: .*bank\.json is missing"),
    ],
)
def test_damage_is_named(bank, tmp_path, change, says):
    folder = bank.save(tmp_path / "bank")
    change(folder)
    with pytest.raises(BankError, match=f"(?s){says}"):
        ProjectionBank.load(folder)


def _with_tensors(folder, change, shapes=False):
    """A bank whose tensors were changed by somebody who also fixed the checksum (and the shapes)."""
    tensors = load_file(folder / "bank.safetensors")
    change(tensors)
    save_file(tensors, folder / "bank.safetensors")
    data = json.loads((folder / "bank.json").read_text())
    data["tensors"]["sha256"] = hashlib.sha256((folder / "bank.safetensors").read_bytes()).hexdigest()
    if shapes:
        data["tensors"]["shapes"] = {name: list(t.shape) for name, t in tensors.items()}
    (folder / "bank.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.update({"positive.1": t["positive.1"].half()}), r"'positive\.1' is torch\.float16, expected"),
        (lambda t: t.update({"gap": t["gap"].double()}), r"'gap' is torch\.float64"),
        (lambda t: t.update({"positive.1": t["positive.1"][:, :8].contiguous()}), r"shape \(2, 8, 10\), expected"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "unexpected tensor 'extra'"),
        (lambda t: t.pop("gap"), "tensor 'gap' is missing"),
        (lambda t: t.pop("positive.2"), r"tensor 'positive\.2' is missing"),
        (lambda t: t.pop("singular_values.2"), r"tensor 'singular_values\.2' is missing"),
    ],
)
def test_other_tensors_than_the_header_says_are_named(learned, tmp_path, change, says):
    with pytest.raises(BankError, match=says):
        ProjectionBank.load(_with_tensors(learned.save(tmp_path / "t"), change))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("positive.1", lambda t: t * 1.5, "positive factors of layer 1: columns are not orthonormal"),
        ("positive.1", lambda t: t * 1.001, "not orthonormal"),
        ("positive.1", lambda t: t.flip(0)[..., :1].expand(-1, -1, 2), "not orthonormal"),
        ("positive.1", lambda t: t * float("nan"), "not finite"),
        ("positive.1", lambda t: t[:, :8], "shape"),
        ("positive.7", lambda t: torch.eye(16)[None, :, :3].repeat(2, 1, 1), "layers 0 to 2"),
        ("positive.x", lambda t: torch.zeros(1), "unexpected tensor"),
        ("gap", lambda t: t[:1], "gap: shape"),
        ("gap", lambda t: -t, "gap: not finite, or negative"),
        ("singular_values.1", lambda t: t * 0, "singular values of layer 1: zero for a kept column"),
        ("singular_values.1", lambda t: t * float("inf"), "not finite"),
        ("singular_values.1", None, "singular values for layers"),
    ],
)
def test_tensors_that_cannot_be_a_bank_are_refused(learned, tmp_path, name, change, says):
    def tamper(tensors):
        old = tensors.pop(name, None)
        if change:
            tensors[name] = change(old).contiguous()

    with pytest.raises(BankError, match=says):
        ProjectionBank.load(_with_tensors(learned.save(tmp_path / "t"), tamper, shapes=True))


def test_folders_may_nest(tmp_path):
    files = {"top.json": b"{}", "part/a.bin": b"1"}
    write_folder(tmp_path / "x", files)
    assert read_folder(tmp_path / "x", files) == files
    write_folder(tmp_path / "x", {**files, "part/a.bin": b"2"})
    assert (tmp_path / "x" / "part" / "a.bin").read_bytes() == b"2"
    with pytest.raises(BankError, match=r"x holds other files \(part/a\.bin\)"):
        write_folder(tmp_path / "x", {"top.json": b"{}"})


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
