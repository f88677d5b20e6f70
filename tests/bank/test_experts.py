"""Several banks of one model in one artifact."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tiny import random_bank, random_expert, tiny_model

from seka_rag import AdaSeka, ExpertBank, KeyBias, Prism, ProjectionBank, Seka, learn_experts, load_bank
from seka_rag.errors import BankError, LearningError, SettingError
from seka_rag.hf.find import find_key_sites
from seka_rag.learning.experts import TASKS, task_triples
from seka_rag.steering.base import SteeringMethod


@pytest.fixture(scope="module")
def experts(qwen3):
    return ExpertBank({n: random_bank(qwen3, i) for i, n in enumerate("abc")}, gains={"b": 0.5}, suggested_gain=0.7)


def test_add_remove_and_rename_return_new_banks(qwen3, experts):
    four = experts.add("d", random_bank(qwen3, 9), gain=2.0)
    assert four.names == ("a", "b", "c", "d")
    assert four.gains == {"a": 1.0, "b": 0.5, "c": 1.0, "d": 2.0}
    assert experts.names == ("a", "b", "c")
    renamed = four.rename("b", "z")
    assert renamed.names == ("a", "z", "c", "d")
    assert renamed.gains["z"] == 0.5
    assert renamed["z"] is experts["b"]
    assert four.remove("a").names == ("b", "c", "d")
    assert len({b.digest for b in (experts, four, renamed)}) == 3
    assert four.remove("d").digest == experts.digest
    assert four.suggested_gain == 0.7


def test_the_gain_to_start_from_is_that_of_banks_that_suggest_seka(qwen3):
    def bank(method: SteeringMethod) -> ProjectionBank:
        return random_bank(qwen3).changed(steering=method.as_dict())

    others = {"a": bank(Prism(gain=2.5)), "b": bank(KeyBias(bias=2.0))}
    assert ExpertBank(others).steering == {"method": "AdaSeka", "gain": 0.5}
    assert ExpertBank({**others, "c": bank(Seka(gain=0.25)), "d": bank(Seka(gain=0.5))}).suggested_gain == 0.375


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda e: e.add("a", e["b"]), "there is an expert 'a' already"),
        (lambda e: e.rename("a", "b"), "there is an expert 'b' already"),
        (lambda e: e.rename("q", "r"), "no expert 'q'; there are a, b, c"),
        (lambda e: e.remove("q"), "no expert 'q'"),
        (lambda e: e.remove("a").remove("b").remove("c"), "at least one expert"),
        (lambda e: e.add("../x", e["b"]), "lower-case letters"),
        (lambda e: e.add("X", e["b"]), "lower-case letters"),
        (lambda e: e.add("d", e["b"], gain=float("nan")), "finite"),
        (lambda e: ExpertBank({}), "at least one expert"),
        (lambda e: ExpertBank({"a": e["a"]}, gains={"b": 1.0}), "not there: b"),
    ],
)
def test_what_is_refused(experts, act, message):
    with pytest.raises(BankError, match=message):
        act(experts)


def test_experts_of_another_model_are_refused(experts):
    with pytest.raises(BankError, match="experts 'a' and 'd' are of different models"):
        experts.add("d", random_bank(tiny_model("llama")))


def test_saved_and_loaded(experts, tmp_path):
    experts.save(tmp_path / "e")
    loaded = load_bank(tmp_path / "e")
    assert isinstance(loaded, ExpertBank)
    assert (loaded.digest, loaded.gains, loaded.suggested_gain) == (experts.digest, experts.gains, 0.7)
    assert all(torch.equal(loaded["b"].positive[i], experts["b"].positive[i]) for i in experts.layers)
    experts.remove("c").save(tmp_path / "smaller")
    assert not (tmp_path / "smaller" / "c").exists()
    experts["a"].save(tmp_path / "one")
    assert isinstance(load_bank(tmp_path / "one"), ProjectionBank)
    with pytest.raises(BankError, match="holds experts, not one bank"):
        ProjectionBank.load(tmp_path / "e")
    with pytest.raises(BankError, match=r"experts\.json is missing"):
        ExpertBank.load(tmp_path / "one")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(BankError, match="other files"):
        experts.save(tmp_path / "full")
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"
    with pytest.raises(BankError, match="not a bank"):
        load_bank(tmp_path / "nothing")


def test_experts_of_the_format_before_still_load(experts, tmp_path):
    folder = experts.save(tmp_path / "e")
    header = json.loads((folder / "experts.json").read_text())
    assert header.pop("steering") == {"method": "AdaSeka", "gain": 0.7}
    (folder / "experts.json").write_text(json.dumps({**header, "format_version": 1, "suggested_gain": 0.3}))
    assert ExpertBank.load(folder).steering == {"method": "AdaSeka", "gain": 0.3}


def damage_name(folder):
    header = json.loads((folder / "experts.json").read_text())
    header["gains"] = {"../one": 1.0}
    (folder / "experts.json").write_text(json.dumps(header))


def damage_swap(folder):
    shutil.rmtree(folder / "a")
    shutil.copytree(folder / "b", folder / "a")


def damage_version(folder):
    header = json.loads((folder / "experts.json").read_text())
    (folder / "experts.json").write_text(json.dumps(header | {"format_version": 99}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_name, "expert names"),
        (damage_swap, "banks of a are not those that were saved"),
        (damage_version, "format 99"),
        (lambda f: (f / "experts.json").write_text("{"), "damaged"),
        (lambda f: shutil.rmtree(f / "c"), r"bank\.json is missing"),
        (lambda f: save_file({"x": torch.zeros(1)}, f / "b" / "bank.safetensors"), "damaged"),
    ],
)
def test_damage_is_named(experts, tmp_path, damage, message):
    experts.save(tmp_path / "e")
    damage(tmp_path / "e")
    with pytest.raises(BankError, match=message):
        ExpertBank.load(tmp_path / "e")


def test_layer_experts_take_the_leading_columns(qwen3):
    a, b = random_expert(qwen3, 1, rank=4), random_expert(qwen3, 2, rank=2)
    layer = ExpertBank({"a": a, "b": b}).layer_experts(1, 3)
    assert layer.factors.shape == (2, 16, 2, 3)
    assert torch.equal(layer.factors[:, :, 0], a.positive[1][:, :, :3])
    assert torch.equal(layer.values[:, 0], a.singular_values[1][:, :3])
    assert (layer.factors[:, :, 1, 2] == 0).all()
    assert (layer.values[:, 1, 2] == 0).all()


@pytest.mark.parametrize("task", TASKS)
def test_triples_of_a_task(task):
    triples = TASKS[task](60, 3)
    assert triples == TASKS[task](60, 3)
    assert triples[:20] == TASKS[task](20, 3)
    assert triples != TASKS[task](60, 4)
    assert len({(t.context, t.question) for t in triples}) == 60
    assert len({t.answer_text for t in triples}) > 10
    for t in triples:
        assert t.answer_text == t.answer_text.strip()
        assert t.answer_text not in t.question
    if task == "needle":
        assert min(len(t.context) for t in triples) > 400
    if task == "multihop":  # the question does not name the person in whose sentence the answer stands
        for t in triples:
            sentence = next(s for s in t.context.split(". ") if t.answer_text in s)
            assert any(w[0].isupper() and w not in t.question for w in sentence.split())
    with pytest.raises(LearningError, match="at least 1"):
        TASKS[task](0, 0)


def test_learned_experts(qwen3, tokenizer):
    from seka_rag.demo.trials import demo_triples

    triples = {"one": demo_triples(12), "two": demo_triples(12, seed=5, statements=(8, 9))}
    bank = learn_experts(qwen3, triples, tokenizer=tokenizer, gains={"two": 0.5}, energy=0.8)
    assert bank.names == ("one", "two")
    assert bank["one"].learning.triples == 12
    assert AdaSeka(router="signed").edits(bank, find_key_sites(qwen3))
    with pytest.raises(LearningError, match="expert 'none': no triples"):
        learn_experts(qwen3, {"none": []}, tokenizer=tokenizer)
    with pytest.raises(SettingError, match="no task rhyme; there are lookup"):
        task_triples(["rhyme"])
