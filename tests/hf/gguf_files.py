"""Small GGUF files as llama.cpp's converter writes them: tiny random models, a byte tokenizer, a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny import tiny_model
from transformers.convert_slow_tokenizer import bytes_to_unicode

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*SPECIAL, *bytes_to_unicode().values(), "Ly", "on", "Lyon", "Ġ1", "ĠL"]
MERGES = ["L y", "o n", "Ly on", "Ġ 1", "Ġ L"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_gguf(path: Path, kind: str = "llama", **changes: Any) -> Any:
    """Write the tiny random model of a family in float32, and return it.

    Args:
        changes: how the file differs: ``arch``, ``tokenizer`` and ``pre`` as written; ``template``; ``eos``; ``rows`` of the
            embedding; ``without``, a tensor that is left out; ``more``, tensors that are added; ``quantise``, a type of the
            matrices; ``damage``, an edit of the tensors. Others are settings of the model.
    """
    known = ("arch", "tokenizer", "pre", "template", "eos", "rows", "without", "more", "quantise", "damage")
    settings = {key: value for key, value in changes.items() if key not in known}
    size = settings.get("hidden_size", 48) // 4
    sizes = {"llama": {"head_dim": size}, "qwen3": {"head_dim": 128}}.get(kind, {})  # as transformers reads the files
    model = tiny_model(kind, vocab_size=changes.get("rows", len(TOKENS)), **sizes, **settings)
    config, arch = model.config, changes.get("arch", kind)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("Tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model(changes.get("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(changes.get("pre", "default"))
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if t in SPECIAL else 1 for t in TOKENS])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(changes.get("eos", 2))
    writer.add_add_bos_token(False)
    if template := changes.get("template", TEMPLATE):
        writer.add_chat_template(template)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, _, suffix = name.rpartition(".")
        found = f"{names.get_name(stem)}.{suffix}"
        value = tensor.float().numpy()
        if kind == "llama" and any(p in name for p in ("q_proj", "k_proj")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        if found == changes.get("without"):
            continue
        value = np.ascontiguousarray(changes.get("damage", lambda _, v: v)(found, value))
        if (quantised := changes.get("quantise")) and value.ndim == 2 and "token_embd" not in found:
            writer.add_tensor(found, gguf.quantize(value, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(found, value)
    for name, value in changes.get("more", {}).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model
