"""Weights in 4 and 8 bits, loaded as users load them: keys are edited where the float model's are."""

import pytest
import torch
from oracle import edited_keys
from tiny import random_bank, tiny_model
from transformers import AutoModelForCausalLM

from seka_rag import Seka, steer
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import recording
from seka_rag.hf.identity import identify

IDS = torch.arange(3, 21).reshape(2, 9)
MASK = torch.zeros(2, 9, dtype=torch.bool)
MASK[0, 2:5] = True
MASK[1, 0] = True


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def float_model(request):
    return tiny_model(request.param, hidden_size=64, intermediate_size=128)  # blocks of the 4-bit format are 64 wide


@pytest.fixture(params=["4-bit", "8-bit"])
def quantised(request, float_model, tmp_path):
    """The float model, saved and loaded again with bitsandbytes."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    bits = {f"load_in_{request.param.replace('-', '')}": True}
    float_model.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(**bits), device_map="cpu"
    )
    kind = bitsandbytes.nn.Linear4bit if request.param == "4-bit" else bitsandbytes.nn.Linear8bitLt
    assert isinstance(model.model.layers[0].self_attn.k_proj, kind)
    return model.eval()


def test_a_bank_of_the_float_model_steers_the_quantised_one(float_model, quantised):
    bank, sites = random_bank(float_model), find_key_sites(quantised)
    assert identify(quantised).weights == {}  # cannot be compared, so nothing is claimed
    with torch.no_grad(), recording(sites) as before:
        plain = quantised(IDS).logits
    with torch.no_grad(), steer(quantised, bank, MASK, Seka(gain=1.5)), recording(sites) as after:
        steered = quantised(IDS).logits
    with torch.no_grad(), steer(quantised, bank, MASK, Seka(gain=0.0)):
        assert torch.equal(quantised(IDS).logits, plain)
    first = min(after)  # later layers read what the edits before them changed
    wanted = edited_keys(before[first], MASK.tolist(), bank.projection(first), 1.5)
    assert torch.allclose(after[first].double(), torch.from_numpy(wanted), atol=1e-4)
    assert torch.equal(after[first][~MASK], before[first][~MASK])
    assert not torch.allclose(steered, plain, atol=1e-3)
