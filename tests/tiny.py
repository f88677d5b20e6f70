"""Tiny random models, one line a family."""

from __future__ import annotations

from functools import cache

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from seka_rag import ProjectionBank, SteeredModel, learn_bank
from seka_rag.hf.identity import identify

#: transformers model_type -> settings beside the common ones.
FAMILIES: dict[str, dict] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 8, "query_pre_attn_scalar": 16},
}
COMMON = {
    "vocab_size": 1500,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny_model(family: str, seed: int = 0, **settings):
    """A model of the family with random weights and keys that matter."""
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[family](**{**COMMON, **FAMILIES[family], **settings})
    return AutoModelForCausalLM.from_config(config).eval()


@cache
def demo_tokenizer():
    from seka_rag.demo.lessons import vocabulary_texts
    from seka_rag.demo.tokenizer import build_tokenizer

    return build_tokenizer(vocabulary_texts())


def random_bank(model, seed: int = 0, rank: int = 3, layers: list[int] | None = None) -> ProjectionBank:
    """A bank of random orthogonal projections, with a negative part."""
    identity = identify(model)
    generator = torch.Generator().manual_seed(seed)

    def projections():
        noise = torch.randn(identity.heads, identity.head_dim, identity.head_dim, generator=generator)
        u = torch.linalg.qr(noise)[0][:, :, :rank]
        return u @ u.mT

    chosen = range(identity.layers) if layers is None else layers
    return ProjectionBank.from_projections(
        model, {i: projections() for i in chosen}, negative={i: projections() for i in chosen}
    )


def tiny_engine(context: int) -> SteeredModel:
    """A tiny random model with the demo's tokenizer and a bank, for the tests of the integrations."""
    from seka_rag.demo.trials import demo_triples

    tokenizer = demo_tokenizer()
    model = tiny_model(
        "qwen3",
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        max_position_embeddings=context,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    plain = SteeredModel(model, tokenizer)
    return SteeredModel(model, tokenizer, bank=learn_bank(plain, demo_triples(20), min_gap=0.0), name="tiny")


@cache
def byte_level_tokenizer():
    """A small byte-level BPE, as most models have one, with control tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from seka_rag.demo.tokenizer import CHAT_TEMPLATE

    special = ["<|bos|>", "<|im_end|>", "<|im_start|>", "[TOOL_CALLS]"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    text = [
        '{"name": "search", "arguments": {"query": "Where does Alec live?"}}',
        "Alec moved to Lyon last year. Été à Zürich.",
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(text * 3, trainer)
    backend.add_tokens([AddedToken("<tool_call>", special=False), AddedToken("</tool_call>", special=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        pad_token="<|bos|>",
        additional_special_tokens=special[2:],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )
