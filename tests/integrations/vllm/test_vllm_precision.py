"""Half precision, an fp8 cache, and what only a GPU has: where rounding is coarse, steering is as near as the plain model.

In float32, log-probabilities are compared within 1e-4 (``test_vllm_modes.py``). Here the plain requests show how far an engine
is from transformers in float32 with the same weights. The steered ones may not be much further, and what steering changes must
be what it changes there.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from vllm_engines import Asked, answers, engine, largest_difference, mixed, reference

from seka_rag import KeyVector

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
WAYS = {
    "bfloat16": {},
    "bfloat16, compiled": {"enforce_eager": False},
    "bfloat16, fp8 cache": {"kv_cache_dtype": "fp8"},
    "FlashAttention": {"attention_backend": "FLASH_ATTN"},
    "FlashAttention, CUDA graphs of whole steps": {
        "attention_backend": "FLASH_ATTN",
        "enforce_eager": False,
        "compilation_config": {"cudagraph_mode": "FULL"},
    },
    "FlashAttention, CUDA graphs in pieces": {
        "attention_backend": "FLASH_ATTN",
        "enforce_eager": False,
        "compilation_config": {"cudagraph_mode": "PIECEWISE"},
    },
    "CUDA graphs, fp8 cache": {"enforce_eager": False, "kv_cache_dtype": "fp8"},
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    "way", [pytest.param(name, marks=[] if name.startswith("bfloat16") else ON_GPU) for name in WAYS]
)
def test_steering_is_as_near_as_the_plain_model(way, tiny_llama, record_property):
    folder, model, bank = tiny_llama
    rounded = deepcopy(model).to(torch.bfloat16).float()
    plain = [Asked(one.prompt) for one in mixed(model.config.vocab_size)]
    steered = [one for one in mixed(model.config.vocab_size) if one.highlights is not None]
    expected, without = (reference(rounded, bank, KeyVector(), asked, 1) for asked in (steered, plain))
    with engine(folder / "model", folder / "bank", KeyVector(), dtype="bfloat16", **WAYS[way]) as llm:
        for name in ("computed", "from the prefix cache"):
            found = answers(llm, [*steered, *plain], 1)
            near = [
                largest_difference(found[len(steered) :], without),
                largest_difference(found[: len(steered)], expected),
            ]
            print(f"\n{way}, {name}: plain {near[0]:.1e}, steered {near[1]:.1e}")
            record_property(f"{way}, {name}", near)
            assert near[1] <= 3 * near[0]
            for one, (_, scores, output), (_, wanted) in zip(steered, found, expected, strict=False):
                before = next(w for p, (_, w) in zip(plain, without, strict=True) if p.prompt == one.prompt)
                effect, there = scores[0] - before[0], wanted[0] - before[0]
                assert there.abs().max() > 10 * near[0]
                assert torch.cosine_similarity(effect, there, dim=0) > 0.99
                assert output.kv_transfer_params["seka"]["tokens_edited"] == one.highlights.count
