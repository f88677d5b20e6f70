"""Tiny random models, one line a family."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

from seka_rag import ProjectionBank, SteeredModel, learn_bank
from seka_rag.bank.queries import MeanQueries
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.identity import identify
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.learning.examples import Example
from seka_rag.ops.keys import KeyEdit

_SLIDING = {"sliding_window": 8}
_GEMMA = {"sliding_window": 8, "query_pre_attn_scalar": 16}
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 24, "mamba_d_state": 8, "mamba_n_groups": 1}
_LAST = {"layer_types": ["linear_attention", "full_attention", "full_attention"]}

#: transformers model_type, and after a colon a variant of it -> settings beside the common ones.
FAMILIES: dict[str, dict] = {
    "afmoe": {},
    "apertus": {},
    "arcee": {},
    "aria_text": {},
    "bamba": {"attn_layer_indices": [1, 2], **_MAMBA},
    "biogpt": {},
    "bitnet": {},
    "bloom": {},
    "codegen": {"num_attention_heads": 8, "rotary_dim": 4},
    "cohere": {},
    "cohere2": _SLIDING,
    "cohere2_moe": _SLIDING,
    "cohere:use_qk_norm": {"use_qk_norm": True},
    "ctrl": {"dff": 64},
    "cwm": _SLIDING,
    "diffllama": {},
    "doge": {},
    "dots1": {"n_shared_experts": 1},
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone4": _SLIDING,
    "exaone_moe": _SLIDING,
    "falcon": {},
    "falcon:multi_query=False, alibi": {"multi_query": False, "alibi": True},
    "falcon:new_decoder_architecture": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_h1": {"mamba_chunk_size": 8, "mamba_d_ssm": 96, "key_multiplier": 0.5, **_MAMBA},
    "flex_olmo": {},
    "flint": {"num_hidden_layers": 4},
    "gemma": {},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "vocab_size_per_layer_input": 1500,
        "activation_sparsity_pattern": None,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "intermediate_size": 64,
    },
    "gemma4_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 1,
        "hidden_size_per_layer_input": 8,
        "global_head_dim": 24,
        "vocab_size_per_layer_input": 1500,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    },
    "glm": {},
    "glm4": {},
    "glm4_moe": {},
    "glm4_moe:use_qk_norm": {"use_qk_norm": True},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_bigcode:multi_query=False": {"multi_query": False},
    "gpt_neo": {"attention_types": [[["global", "local"], 1], [["global"], 1]]},
    "gpt_neox": {},
    "gpt_neox_japanese": {},
    "gpt_oss": _SLIDING,
    "gptj": {"rotary_dim": 8},
    "granite": {},
    "granite_swa": {},
    "granitemoe": {},
    "granitemoe_swa": {},
    "granitemoehybrid": {**_LAST, **_MAMBA},
    "granitemoeshared": {},
    "helium": {"head_dim": 12},
    "hy_v3": {},
    "hyperclovax": {},
    "internlm3": {},
    "iquestcoder": {},
    "jais2": {},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
    "jetmoe": {"kv_channels": 16},
    "kolibri1": {},
    "laguna": {"num_attention_heads_per_layer": [4, 8, 4]},
    "lfm2": {"layer_types": ["conv", "full_attention", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "full_attention"]},
    "lfm3": {},
    "llama": {},
    "llama4_text": {"intermediate_size_mlp": 64, "no_rope_layers": [1, 0, 0]},
    "llama4_text:use_qk_norm=False": {"intermediate_size_mlp": 64, "use_qk_norm": False, "no_rope_layers": [1, 1, 0]},
    "mellum": {},
    "mimo_v2_flash": {"v_head_dim": 16, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "minimax": {},
    "minimax_m2": {},
    "minimax_m3_vl_text": {},
    "ministral": _SLIDING,
    "ministral3": {},
    "mistral": {"sliding_window": None},
    "mixtral": {},
    "mpt": {},
    "nemotron": {},
    "nemotron_h": {
        "ssm_state_size": 8,
        "mamba_num_heads": 4,
        "mamba_head_dim": 12,
        "n_groups": 1,
        "chunk_size": 8,
        "moe_shared_expert_intermediate_size": 32,
    },
    "olmo": {},
    "olmo2": {},
    "olmo3": _SLIDING,
    "olmo_hybrid": _LAST,
    "olmoe": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 48},
    "persimmon": {},
    "persimmon:qk_layernorm=False": {"qk_layernorm": False},
    "phi": {},
    "phi3": {},
    "phi:qk_layernorm": {"qk_layernorm": True},
    "phimoe": {},
    "qwen2": {},
    "qwen2_5_vl_text": _MROPE,
    "qwen2_moe": {},
    "qwen2_vl_text": _MROPE,
    "qwen3": {},
    "qwen3_5_moe_text": {**_LAST, **_LINEAR},
    "qwen3_5_text": {**_LAST, **_LINEAR},
    "qwen3_moe": {},
    "qwen3_next": {**_LAST, **_LINEAR},
    "qwen3_vl_moe_text": {},
    "qwen3_vl_text": {},
    "seed_oss": {},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "solar_open": {},
    "stablelm": {"partial_rotary_factor": 0.5},
    "stablelm:qk_layernorm": {"partial_rotary_factor": 0.5, "qk_layernorm": True},
    "starcoder2": {},
    "vaultgemma": _GEMMA,
    "xglm": {"ffn_dim": 64, "init_std": 0.15},
}
#: One family of each kind of layout.
KINDS = [
    "codegen",
    "falcon:new_decoder_architecture",
    "gemma2",
    "gemma3_text",
    "gpt_bigcode",
    "llama",
    "lfm2",
    "olmo2",
    "phi3",
    "qwen3",
    "qwen3_next",
]
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_QWEN_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 32,
    "out_hidden_size": 48,
    "patch_size": 14,
}
#: model_type of a multimodal model -> its text model, and settings of its vision model.
MULTIMODAL: dict[str, tuple[str, dict]] = {
    "aya_vision": ("cohere2", {**_VISION, "model_type": "siglip_vision_model"}),
    "gemma3": ("gemma3_text", {**_VISION, "model_type": "siglip_vision_model"}),
    "idefics3": ("llama", _VISION),
    "internvl": ("qwen2", {**_VISION, "model_type": "internvl_vision"}),
    "lfm2_vl": ("lfm2", {**_VISION, "model_type": "siglip2_vision_model"}),
    "llama4": (
        "llama4_text",
        {
            **_VISION,
            "pixel_shuffle_ratio": 0.5,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "vision_output_dim": 32,
        },
    ),
    "llava": ("llama", {**_VISION, "model_type": "clip_vision_model"}),
    "mistral3": ("mistral", {**_VISION, "model_type": "pixtral"}),
    "paligemma": ("gemma", {**_VISION, "model_type": "siglip_vision_model", "projection_dim": 48}),
    "qwen2_5_vl": ("qwen2_5_vl_text", {**_QWEN_VISION, "fullatt_block_indexes": [1]}),
    "qwen2_vl": ("qwen2_vl_text", {"depth": 2, "embed_dim": 32, "hidden_size": 48, "num_heads": 2, "mlp_ratio": 2}),
    "qwen3_5": ("qwen3_5_text", _QWEN_VISION),
    "qwen3_vl": ("qwen3_vl_text", {**_QWEN_VISION, "deepstack_visual_indexes": [0]}),
    "smolvlm": ("llama", _VISION),
}
#: Given to every family whose configuration knows them.
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
    # mixtures of experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "dense_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}


def tiny_settings(family: str) -> dict:
    """The settings of a tiny configuration of the family; skips the test if this version of transformers lacks it."""
    name = family.split(":")[0]
    if name not in CONFIG_MAPPING and Version(transformers.__version__) < Version("5.23"):  # that one has them all
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    config_class = CONFIG_MAPPING[name]
    return {**{k: v for k, v in COMMON.items() if _knows(config_class, k)}, **FAMILIES.get(family, {})}


def tiny_model(family: str, seed: int = 0, **settings):
    """A model of the family with random weights and keys that matter."""
    torch.manual_seed(seed)
    chosen = {**tiny_settings(family), **settings}
    config = CONFIG_MAPPING[family.split(":")[0]](**chosen)
    known = type(config) in AutoModelForCausalLM._model_mapping
    return (AutoModelForCausalLM if known else AutoModel).from_config(config).eval()


def tiny_multimodal(family: str):
    """A tiny multimodal model with random weights."""
    torch.manual_seed(0)
    text, vision = MULTIMODAL[family]
    config = CONFIG_MAPPING[family](text_config={**tiny_settings(text), "model_type": text}, vision_config=vision)
    return AutoModelForImageTextToText.from_config(config).eval()


def _knows(config_class, name: str) -> bool:
    name = config_class.attribute_map.get(name, name)
    return hasattr(config_class, name) and not isinstance(getattr(config_class, name), property)


@cache
def demo_tokenizer():
    from tools.demo_training.lessons import vocabulary_texts
    from tools.demo_training.tokenizer import build_tokenizer

    return build_tokenizer(vocabulary_texts())


def random_bank(model, seed: int = 0, rank: int = 3, layers: list[int] | None = None) -> ProjectionBank:
    """A bank of random orthogonal projections, with a negative part and one of values."""
    identity = identify(model)
    generator = torch.Generator().manual_seed(seed)

    def projections():
        noise = torch.randn(identity.heads, identity.head_dim, identity.head_dim, generator=generator)
        u = torch.linalg.qr(noise)[0][:, :, :rank]
        return u @ u.mT

    sites = find_key_sites(model)
    chosen = sites.modules if layers is None else layers
    bank = ProjectionBank.from_projections(
        model, {i: projections() for i in chosen}, negative={i: projections() for i in chosen}
    )
    mean = {
        i: torch.randn(sites.heads * sites.groups, sites.head_dim, generator=generator) for i in sites.query_modules
    }
    values = {i: torch.linalg.qr(torch.randn(*bank.positive[i].shape, generator=generator))[0] for i in chosen}
    queries = MeanQueries(mean, {i: 2 * q.square().sum(-1) for i, q in mean.items()})
    return ProjectionBank(
        bank.model,
        bank.positive,
        bank.negative,
        learning=bank.learning,
        queries=queries if mean else None,
        values=values,
    )


def matrix_of(edit: KeyEdit) -> torch.Tensor:
    """M of ``k' = k + w k M``: ``[h, D, D]``."""
    return edit.down if edit.up is None else edit.down @ edit.up


def tiny_examples(count: int, seed: int, length: int = 9) -> list[Example]:
    """Random prompts of several lengths, two tokens of each highlighted, with two answers."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        n = length + i % 3
        ids = torch.randint(5, 90, (n,), generator=draw).tolist()
        weights = [1.0 if j in (2, 3) else 0.0 for j in range(n)]
        evidence, remembered = torch.randperm(80, generator=draw)[:2].tolist()
        found.append(Example(TokenizedPrompt(ids, weights, [(j, j + 1) for j in range(n)]), evidence, remembered))
    return found


def random_expert(model, seed, *, rank=4, without=()):
    """An expert with singular values; ``without``: (layer, head) pairs that it lacks."""
    identity, generator = identify(model), torch.Generator().manual_seed(seed)
    factors, values = {}, {}
    for layer in find_key_sites(model).modules:
        noise = torch.randn(identity.heads, identity.head_dim, identity.head_dim, generator=generator)
        kept = torch.tensor([(layer, h) not in without for h in range(identity.heads)])
        factors[layer] = torch.linalg.qr(noise)[0][..., :rank] * kept[:, None, None]
        s = torch.rand(identity.heads, rank, generator=generator).sort(descending=True).values + 0.1
        values[layer] = s * kept[:, None]
    return ProjectionBank(identity, factors, singular_values=values)


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

    from tools.demo_training.tokenizer import CHAT_TEMPLATE

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
