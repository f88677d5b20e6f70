"""Statistics that were collected in parts and added equal those of one run."""

import json

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from tiny import demo_tokenizer, tiny_model

from seka_rag.demo.trials import demo_triples
from seka_rag.errors import LearningError
from seka_rag.hf.identity import identify
from seka_rag.learning.learn import bank_from_statistics
from seka_rag.learning.statistics import collect_statistics
from seka_rag.learning.statistics_files import load_statistics, merge_statistics, save_statistics

TRIPLES = demo_triples(26)
SUMS = ("relevant", "irrelevant", "mean_relevant", "gap")


def collect(model, triples):
    return collect_statistics(model, demo_tokenizer(), triples, batch_size=4)


@pytest.fixture(scope="module")
def whole(qwen3):
    return collect(qwen3, TRIPLES)


@pytest.fixture(scope="module")
def parts(qwen3, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return [
        save_statistics(folder / f"{i}.safetensors", identify(qwen3), collect(qwen3, part))
        for i, part in enumerate((TRIPLES[:8], TRIPLES[8:16], TRIPLES[16:]))  # whole batches
    ]


def test_the_sum_of_the_parts_is_the_whole(qwen3, whole, parts):
    model, merged = merge_statistics(parts)
    assert model == identify(qwen3)
    assert (merged.tokens, merged.triples, merged.skipped) == (whole.tokens, whole.triples, whole.skipped)
    for name in SUMS:
        assert torch.allclose(getattr(merged, name), getattr(whole, name), rtol=1e-10, atol=1e-10), name
    a, b = (bank_from_statistics(model, s, energy=0.8, negative=True) for s in (whole, merged))
    assert torch.equal(a.ranks, b.ranks)
    for layer in a.positive:
        assert torch.allclose(a.projection(layer), b.projection(layer), atol=1e-6)
        assert torch.allclose(a.singular_values[layer], b.singular_values[layer], rtol=1e-6)


def test_files_keep_everything(qwen3, whole, tmp_path):
    path = save_statistics(tmp_path / "new" / "s.safetensors", identify(qwen3), whole)
    model, again = load_statistics(path)
    assert model == identify(qwen3)
    assert all(torch.equal(getattr(again, name), getattr(whole, name)) for name in SUMS)
    assert (again.tokens, again.triples, again.skipped) == (whole.tokens, whole.triples, whole.skipped)
    assert [p.name for p in path.parent.iterdir()] == ["s.safetensors"]


def test_parts_that_do_not_belong_together_are_refused(whole, parts, tmp_path):
    with pytest.raises(LearningError, match="hold the same statistics"):
        merge_statistics([parts[0], parts[1], parts[0]])
    with pytest.raises(LearningError, match="no statistics"):
        merge_statistics([])
    for other, says in ((tiny_model("llama"), "model_type"), (tiny_model("qwen3", seed=3), "weights differ")):
        path = save_statistics(tmp_path / "other.safetensors", identify(other), whole)
        with pytest.raises(LearningError, match=f"other.safetensors are of different models: .*{says}"):
            merge_statistics([parts[0], path])


def _with(path, tensors=None, **header):
    """The file with other tensors or header fields."""
    with safe_open(path, "pt") as file:
        old = json.loads(file.metadata()["seka_statistics"])
    new = json.dumps({**old, **header})
    save_file({**load_file(path), **(tensors or {})}, path, metadata={"seka_statistics": new})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:1000]), "is damaged"),
        (lambda p: p.write_text("hello"), "is damaged"),
        (lambda p: p.unlink(), "cannot read statistics"),
        (lambda p: save_file({"x": torch.zeros(1)}, p), "holds no statistics"),
        (lambda p: _with(p, format_version=9), "has format 9"),
        (lambda p: _with(p, surprise=1), "is damaged"),
        (lambda p: _with(p, {"gap": torch.zeros(3, 2).double()}), "do not match their checksum"),
        (lambda p: _with(p, {"gap": torch.zeros(3, 2)}), "finite float64"),
        (lambda p: _with(p, {"gap": torch.full((3, 2), torch.nan).double()}), "finite float64"),
        (lambda p: _with(p, {"gap": torch.zeros(4, 2).double()}), "not those of its model"),
        (lambda p: _with(p, {"extra": torch.zeros(1)}), "not those of its model"),
        (lambda p: _with(p, {"query_sum.9": torch.zeros(4, 16).double()}), "not those of its model"),
        (lambda p: _with(p, {"query_sum.x": torch.zeros(4, 16).double()}), "not those of its model"),
        (lambda p: _with(p, {"query_power.0": torch.zeros(4).double()}), "not those of its model"),
        (lambda p: _with(p, prompts=0), "not those of its model"),
        (lambda p: _with(p, tokens=0), "at least one token"),
    ],
)
def test_damage_is_named(qwen3, whole, tmp_path, damage, says):
    path = save_statistics(tmp_path / "s.safetensors", identify(qwen3), whole)
    damage(path)
    with pytest.raises(LearningError, match=rf"s\.safetensors.*{says}|{says}.*s\.safetensors"):
        load_statistics(path)
