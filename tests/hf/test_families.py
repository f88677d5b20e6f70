"""Every family: what is tapped and edited is what reaches attention and the cache, and nothing else changes."""

from functools import partial

import oracle
import pytest
import torch
from family_table import PAGE, family_row, multimodal_list, refused_rows
from seen import AttentionInputs
from tiny import FAMILIES, MULTIMODAL, random_bank, tiny_model, tiny_multimodal

from seka_rag import Seka, steer
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import recording
from seka_rag.hf.layouts import LAYOUTS
from seka_rag.hf.read import read_keys
from seka_rag.hf.taps import tapped
from seka_rag.hf.verify import verify_key_sites

pytestmark = pytest.mark.slow  # as a whole
LENGTH = 7  # shorter than the sliding windows, and no number of heads
IDS = torch.arange(30, 30 + 4 * LENGTH).view(4, LENGTH)  # four rows that begin with four tokens
#: Families that multiply the key, once tapped, by a constant (yarn's attention factor, a key multiplier).
SCALED = {"gpt_oss": 1.3466, "falcon_h1": 0.5}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return tiny_model(family)


@pytest.fixture(scope="module")
def plain(model):
    return run(model)


def cached(output, layer, heads):
    """Keys and values ``[B, T, H, D]`` as the model stored them; Falcon stores each key head once for every query head."""
    stored = output.past_key_values.layers[layer]
    every = stored.keys.shape[1] // heads
    return stored.keys.transpose(1, 2)[:, :, ::every], stored.values.transpose(1, 2)[:, :, ::every]


def run(model):
    with torch.no_grad():
        return model(IDS, use_cache=True)


def test_every_row_of_the_table_is_tested():
    assert {f.split(":")[0] for f in FAMILIES} == set(LAYOUTS)


def test_the_tapped_key_is_the_cached_key_where_rotary_is_the_identity(family, model, plain):
    sites = find_key_sites(model)
    with recording(sites) as keys:
        run(model)
    assert set(keys) == set(sites.modules)
    for layer, k in keys.items():
        stored = cached(plain, layer, sites.heads)[0]
        assert k.shape == stored.shape == (4, LENGTH, sites.heads, sites.head_dim)
        scale = SCALED.get(family.split(":")[0], 1.0)
        assert torch.allclose(scale * k[:, 0], stored[:, 0], rtol=1e-4, atol=1e-5)


def test_the_tapped_value_is_the_cached_value_and_an_edit_of_it_moves_nothing_else(family, model, plain):
    sites = find_key_sites(model)
    if family == "mimo_v2_flash":  # multiplied by a constant on the way to the cache
        assert not sites.value_modules
        return
    assert set(sites.value_modules) == set(sites.modules)
    values, layer = {}, list(sites.modules)[min(1, len(sites.modules) - 1)]

    def double(output):
        new = sites.read_value(output).clone()
        new[2, 3] *= 2
        return sites.write_value(output, new)

    def enter(_):
        for i, module in sites.value_modules.items():
            yield module, lambda out, i=i: values.__setitem__(i, sites.read_value(out))
        yield sites.value_modules[layer], double

    with tapped(sites.decoder, enter):
        edited = run(model)
    keys, before = cached(plain, layer, sites.heads)
    same_keys, after = cached(edited, layer, sites.heads)
    assert torch.allclose(values[layer], before, rtol=1e-4, atol=1e-5)
    assert torch.equal(same_keys, keys)
    wanted = before.clone()
    wanted[2, 3] *= 2
    assert torch.allclose(after, wanted, rtol=1e-4, atol=1e-5)
    first = min(values)
    assert torch.allclose(values[first], cached(plain, first, sites.heads)[1], rtol=1e-4, atol=1e-5)


def test_keys_are_read_without_what_comes_after_them(family, model):
    sites = find_key_sites(model)
    with recording(sites) as whole:
        run(model)
    ids = IDS[:2, :5].clone()
    ids[1, 3:] = 0  # a shorter prompt, padded
    rows, columns = torch.tensor([0, 0, 1]), torch.tensor([4, 1, 2])
    last = sites.decoder.get_submodule(sites.layout.blocks)[max(sites.modules)]
    with last.register_forward_hook(lambda *_: pytest.fail("a layer was completed of which only the keys are wanted")):
        keys, none = read_keys(sites, ids, rows, columns)
    assert set(keys) == set(whole)
    assert not none
    for layer, k in keys.items():
        assert torch.allclose(k, whole[layer][rows, columns], rtol=1e-4, atol=1e-5)


def test_the_tapped_query_is_the_query_of_attention(family, model, plain):
    sites = find_key_sites(model)
    queries = {}

    def enter(_):
        for layer, module in sites.query_modules.items():
            yield module, lambda out, layer=layer: queries.__setitem__(layer, sites.read_query(out))

    with AttentionInputs() as seen, tapped(sites.decoder, enter):
        run(model)
    for layer, q in queries.items():
        key = cached(plain, layer, sites.heads)[0][:, 0]  # [B, H, D]
        groups = q.shape[2] // sites.heads
        found = False
        for real, k in seen.pairs:
            real, k = (x.reshape(4, -1, *x.shape[-2:])[:, :, 0] for x in (real, k))  # [B, heads, D] at position 0
            k = k if k.shape[1] == sites.heads else k[:, ::groups]  # query head i reads key head i // G
            if k.shape == key.shape and torch.allclose(k, key, rtol=1e-4, atol=1e-5):
                scale = (real * q[:, 0]).sum() / (q[:, 0] ** 2).sum()
                found |= scale > 0 and torch.allclose(real, scale * q[:, 0], rtol=1e-3, atol=1e-5)
        assert found, layer


def test_edited_keys_equal_the_oracle_and_nothing_else_moves(family, model, plain):
    sites = find_key_sites(model)
    layer = list(sites.modules)[min(1, len(sites.modules) - 1)]
    bank = random_bank(model, layers=[layer])
    mask = torch.zeros(4, LENGTH)
    mask[0, [0, 3]] = torch.tensor([1.0, 0.5])
    mask[2, [2, 4]] = torch.tensor([2.0, 1.0])
    with steer(model, bank, mask, Seka(gain=0.8)) as report:
        edited = run(model)
    before, values = cached(plain, layer, sites.heads)
    after, same_values = cached(edited, layer, sites.heads)
    wanted = torch.tensor(oracle.edited_keys(before, mask.tolist(), bank.projection(layer), 0.8))
    assert torch.allclose(after[:, 0].double(), wanted[:, 0], rtol=1e-4, atol=1e-5)  # where rotary is the identity
    moved, length = (after - before).double().norm(dim=-1), (wanted - before).double().norm(dim=-1)
    assert torch.allclose(moved[mask == 0], torch.zeros(1).double())
    with recording(sites) as keys:  # elsewhere rotary turns the edit and keeps its length
        run(model)
    tapped = torch.tensor(oracle.edited_keys(keys[layer], mask.tolist(), bank.projection(layer), 0.8))
    length = (tapped - keys[layer]).double().norm(dim=-1) * SCALED.get(family.split(":")[0], 1.0)
    assert torch.allclose(moved, length, rtol=1e-3, atol=1e-5)
    assert torch.equal(after[mask == 0], before[mask == 0])
    assert torch.equal(values, same_values)
    experts = any("expert" in name for name, _ in model.named_modules())  # tokens of all rows share their products
    same = partial(torch.allclose, atol=1e-5) if experts else torch.equal
    for other in sites.modules:
        k, plain_k = cached(edited, other, sites.heads)[0], cached(plain, other, sites.heads)[0]
        assert same(k[[1, 3]], plain_k[[1, 3]]), "unmarked rows"
        assert same(k[2, :2], plain_k[2, :2]), "before the first highlight"
        if other < layer:
            assert torch.equal(k, plain_k)
    assert (report.tokens_edited, report.layers, report.heads) == (4, (layer,), sites.heads)


def test_gain_zero_is_bit_identical_and_a_gain_is_not(model, plain):
    bank, mask = random_bank(model), torch.zeros(4, LENGTH, dtype=torch.bool)
    mask[:, 1:3] = True
    with steer(model, bank, mask, Seka(gain=0.0)):
        assert torch.equal(run(model)[0], plain[0])
    with steer(model, bank, mask, Seka(gain=2.0)):
        assert not torch.allclose(run(model)[0], plain[0], atol=1e-3)
    assert torch.equal(run(model)[0], plain[0])


def test_the_check_of_a_model_shows_the_same_and_the_docs_have_it(family, model):
    assert family_row(family, model) in PAGE.read_text(encoding="utf-8").splitlines(), (
        "run python tests/family_table.py"
    )


def test_the_docs_have_no_other_rows():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.startswith("| `")]) == len(FAMILIES) + len(refused_rows())
    assert set(refused_rows()) <= set(lines)
    assert multimodal_list() in lines


@pytest.mark.parametrize("name", sorted(MULTIMODAL))
def test_of_a_multimodal_model_the_text_model_is_steered(name):
    model = tiny_multimodal(name)
    sites, names = find_key_sites(model), {module: path for path, module in model.named_modules()}
    assert sites.model_type == MULTIMODAL[name][0]
    for path in (names[m] for m in [*sites.modules.values(), *sites.query_modules.values()]):
        assert "language_model.layers" in path or "language_model.model.layers" in path or "text_model.layers" in path
        assert "vision" not in path
    assert all(proof.query for proof in verify_key_sites(model, sites).values())
