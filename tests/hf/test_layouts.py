"""Every family: the tapped key is the key before rotary positions, and editing it equals the oracle."""

import oracle
import pytest
import torch
from tiny import FAMILIES

from seka_rag import Seka, steer
from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.hooks import recording
from seka_rag.hf.layouts import LAYOUTS
from seka_rag.hf.sites import find_key_sites

IDS = torch.arange(30, 50)[None]


def test_every_known_family_is_tested():
    assert set(LAYOUTS) == set(FAMILIES)


def test_the_tapped_key_is_the_cached_key_where_rotary_is_the_identity(any_model):
    sites = find_key_sites(any_model)
    with torch.no_grad(), recording(sites) as keys:
        cache = any_model(IDS, use_cache=True).past_key_values
    for layer, k in keys.items():
        cached = cache.layers[layer].keys.transpose(1, 2)
        assert k.shape == (1, IDS.shape[1], sites.heads, sites.head_dim)
        if cached.shape[1] == IDS.shape[1]:  # a sliding layer has dropped the first position
            assert torch.allclose(k[:, 0], cached[:, 0], atol=1e-5)
            assert not torch.allclose(k[:, 1:], cached[:, 1:], atol=1e-3)


def test_edited_keys_equal_the_oracle(any_model, make_bank):
    sites, bank = find_key_sites(any_model), make_bank(any_model)
    mask = torch.zeros(1, IDS.shape[1])
    mask[0, [0, 4, 5]] = torch.tensor([1.0, 0.5, 2.0])
    method = Seka(gain=0.8, gain_neg=0.3, layers=(0,))  # in layer 0 the input is the same with and without
    with torch.no_grad(), recording(sites) as plain:
        any_model(IDS)
    with torch.no_grad(), steer(any_model, bank, mask, method) as report, recording(sites) as edited:
        any_model(IDS)
    from seka_rag.ops.projection import projection

    wanted = oracle.edited_keys(plain[0], mask.tolist(), bank.projection(0), 0.8, projection(bank.negative[0]), 0.3)
    assert torch.allclose(edited[0].double(), torch.tensor(wanted), atol=1e-5)
    assert torch.equal(edited[0][mask == 0], plain[0][mask == 0])
    assert (report.tokens_edited, report.layers, report.heads) == (3, (0,), 2)


def test_gain_zero_is_bit_identical_and_a_gain_is_not(any_model, make_bank):
    bank, mask = make_bank(any_model), torch.ones(1, IDS.shape[1], dtype=torch.bool)
    with torch.no_grad():
        plain = any_model(IDS).logits
        with steer(any_model, bank, mask, Seka(gain=0.0)):
            assert torch.equal(any_model(IDS).logits, plain)
        with steer(any_model, bank, mask, Seka(gain=1.0)):
            assert not torch.allclose(any_model(IDS).logits, plain, atol=1e-3)
        assert torch.equal(any_model(IDS).logits, plain)


def test_a_batch_equals_its_rows_and_an_unmarked_row_is_untouched(any_model, make_bank):
    bank = make_bank(any_model)
    ids = torch.randint(10, 1000, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[0, 2:5] = True
    mask[2, 7:9] = True
    with torch.no_grad():
        plain = any_model(ids).logits
        with steer(any_model, bank, mask, Seka(gain=1.0)):
            batch = any_model(ids).logits
        for row in (0, 2):
            with steer(any_model, bank, mask[row : row + 1], Seka(gain=1.0)):
                assert torch.allclose(any_model(ids[row : row + 1]).logits[0], batch[row], atol=2e-4)
    assert torch.equal(batch[1], plain[1])


def test_an_unknown_family_is_refused_by_name():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20))
    with pytest.raises(UnsupportedModelError, match="'gpt2' is not known.*qwen3"):
        find_key_sites(model)
    with pytest.raises(UnsupportedModelError, match="not a transformers model"):
        find_key_sites(torch.nn.Linear(2, 2))
