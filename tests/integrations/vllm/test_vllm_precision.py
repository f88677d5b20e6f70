"""Half precision, an fp8 cache, and what only a GPU has: where rounding is coarse, steering is as near as the plain model.

In float32, log-probabilities are compared within 1e-4 (``test_vllm_modes.py``). Here the plain requests show how far an engine
is from transformers in float32 with the same weights. The steered ones may not be much further, and what steering changes in
all log-probabilities must point where it does there, by the cosine.
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


def changes(results) -> torch.Tensor:
    """Log-probabilities ``[requests, vocabulary]`` of the first half less those of the second, the same prompts plain."""
    steered, plain = (torch.stack([scores[0] for _, scores, *_ in half]) for half in halves(results))
    return steered - plain


def halves(results):
    return results[: len(results) // 2], results[len(results) // 2 :]


@pytest.mark.parametrize(
    "way", [pytest.param(name, marks=[] if name.startswith("bfloat16") else ON_GPU) for name in WAYS]
)
def test_steering_is_as_near_as_the_plain_model(way, tiny_llama, record_property):
    folder, model, bank = tiny_llama
    rounded = deepcopy(model).to(torch.bfloat16).float()
    steered = [one for one in mixed(model.config.vocab_size) if one.highlights is not None]
    asked = [*steered, *(Asked(one.prompt) for one in steered)]
    wanted = reference(rounded, bank, KeyVector(), asked, 1)
    with engine(folder / "model", folder / "bank", KeyVector(), dtype="bfloat16", **WAYS[way]) as llm:
        for name in ("computed", "from the prefix cache"):
            found = answers(llm, asked, 1)
            off, plain = (largest_difference(*both) for both in zip(halves(found), halves(wanted), strict=True))
            alike = float(torch.cosine_similarity(changes(found), changes(wanted)).min())
            print(f"\n{way}, {name}: plain {plain:.1e}, steered {off:.1e}, what steering changes {alike:.4f}")
            record_property(f"{way}, {name}", (plain, off, alike))
            assert off <= 3 * plain
            assert alike > (0.9 if "fp8" in way else 0.99)
            edited = [output.kv_transfer_params["seka"]["tokens_edited"] for *_, output in halves(found)[0]]
            assert edited == [one.highlights.count for one in steered]
