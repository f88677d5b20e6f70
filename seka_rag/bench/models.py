"""Random models of a chosen size, and banks for them: for time and memory it does not matter what they know."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from seka_rag.bank import ProjectionBank
from seka_rag.bank.queries import MeanQueries
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.identity import identify


def random_model(
    hidden: int,
    layers: int,
    attention: str = "sdpa",
    *,
    vocabulary: int = 32_000,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A random Qwen3, of about 80M parameters at 640 and 12."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    return model.to(device).eval()


def random_bank(model: nn.Module, rank: int = 8) -> ProjectionBank:
    """Orthogonal projections of the given rank for every head, mean queries, and a vector for each head."""
    identity, sites = identify(model), find_key_sites(model)
    heads, size = identity.heads, identity.head_dim
    u = {layer: torch.linalg.qr(torch.randn(heads, size, size))[0][..., :rank] for layer in sites.modules}
    mean = {layer: torch.randn(heads * sites.groups, size) for layer in sites.modules}
    queries = MeanQueries(mean, {layer: 2 * q.square().sum(-1) for layer, q in mean.items()})
    vectors = {layer: torch.randn(heads, size) for layer in sites.modules}
    return ProjectionBank(identity, u, queries=queries, vectors=vectors, values=u)
