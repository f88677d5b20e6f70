"""Which model families are steered in vLLM, and which of its features are: data, and the reasons for what is refused.

The plugin edits keys where attention turns them by position: in these families ``rotary_emb(positions, q, k)`` is called with
keys after their norm, the place that a bank was learned at. A family is one line here and one in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.layouts import REFUSED


@dataclass(frozen=True)
class Family:
    """Where a family of vLLM's models turns its keys.

    Attributes:
        attention: the module with the heads, below ``layers.N``.
        rotary: its attribute that is called with positions, queries and keys.
        count: its attribute that says how many key-value heads this process holds.
    """

    attention: str = "self_attn"
    rotary: str = "rotary_emb"
    count: str = "num_kv_heads"


#: ``model_type`` of the text model -> where its keys are.
FAMILIES: dict[str, Family] = {
    "gemma3_text": Family(),
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
}


def family_of(model_type: str) -> Family:
    """The family of a text model.

    Raises:
        UnsupportedModelError: it cannot be steered, or was not tested in vLLM.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    reason = REFUSED.get(model_type, f"in vLLM, only these were tested: {', '.join(FAMILIES)}")
    raise UnsupportedModelError(f"model family {model_type!r} cannot be steered: {reason}")


def check_engine(vllm_config: Any) -> None:
    """Refuse what was not shown to steer, before the model is loaded.

    Raises:
        UnsupportedModelError: says what, why, and what to do.
    """
    family_of(vllm_config.model_config.hf_text_config.model_type)
    parallel = vllm_config.parallel_config
    refused = {
        "vLLM's second model runner: set VLLM_USE_V2_MODEL_RUNNER=0": vllm_config.use_v2_model_runner,
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "data parallelism inside one engine: run several engines": parallel.data_parallel_size > 1,
        "context parallelism": parallel.prefill_context_parallel_size * parallel.decode_context_parallel_size > 1,
        "batches that are split in two (--enable-dbo, --ubatch-size)": parallel.use_ubatching,
        "LoRA adapters": vllm_config.lora_config is not None,
        "speculative decoding": vllm_config.speculative_config is not None,
        "a KV connector, whose copies of blocks do not know what was steered": vllm_config.kv_transfer_config
        is not None,
        "KV events, whose readers do not know what was steered": vllm_config.kv_events_config is not None,
        "pooling models": vllm_config.model_config.runner_type != "generate",
    }
    if reasons := [reason for reason, present in refused.items() if present]:
        raise UnsupportedModelError(f"steering was not shown to work with {'; nor with '.join(reasons)}")
