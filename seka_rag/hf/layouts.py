"""Where each model family computes its keys, queries and values: data, no code.

A new family is one row here and one line in the tiny-model list of the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Site:
    """A module below a decoder layer, and the axes of its output (see ``axes``)."""

    path: str
    axes: str


@dataclass(frozen=True)
class Layout:
    """Where one family has its keys and queries: after their norm, if there is one, and before rotary positions.

    Attributes:
        key, query: the two sites; the same module where the projection is fused. A family without a query site has no
            module whose output is the query.
        value: where the values are as they go into the cache; None where no module's output is that, or not known.
        blocks: the list of decoder layers, below the decoder.
        when: values of the configuration for which this row holds, as ``(name, value)``.
        hybrid: some layers have no such module (linear attention, convolution, keys shared from another layer).
        only: the layer type (of the configuration's ``layer_types``) that is steered, where others have other head sizes.
        without: an attribute below a layer; layers that have it cannot be steered.
        heads, head_dim: their name in the configuration where it is not the usual one, or a number.
        unless: a setting with which the key is changed after the site, so that such a model is refused.
        note: what a user of this family should know.
    """

    key: Site
    query: Site | None
    value: Site | None = None
    blocks: str = "layers"
    when: tuple[tuple[str, object], ...] = ()
    hybrid: bool = False
    only: str | None = None
    without: str | None = None
    heads: str | int = "num_key_value_heads"
    head_dim: str | int = "head_dim"
    unless: str | None = None
    note: str = ""


def _pair(key: str, query: str, axes: str, **more: Any) -> Layout:
    """Two sites; values are usually the output of ``v_proj`` beside them."""
    more = {"value": Site(f"{key.rpartition('.')[0]}.v_proj", "BT(HD)"), **more}
    return Layout(Site(key, axes), Site(query, axes), **more)


def _fused(path: str, axes: str, **more: Any) -> Layout:
    site = Site(path, axes)
    return Layout(site, site, site, **more)


_ABSOLUTE = "no rotary positions: absolute positions are part of the hidden states, so of the keys"
_ALIBI = "no rotary positions (ALiBi): keys hold no positions"

_PROJECTED = _pair("self_attn.k_proj", "self_attn.q_proj", "BT(HD)")
_NORMED = _pair("self_attn.k_norm", "self_attn.q_norm", "BTHD")
_NORMED_HYBRID = _pair("self_attn.k_norm", "self_attn.q_norm", "BTHD", hybrid=True)
_NORMED_TRANSPOSED = _pair("self_attn.k_norm", "self_attn.q_norm", "BHTD")
_NORMED_FLAT = _pair("self_attn.k_norm", "self_attn.q_norm", "BT(HD)")
_LAYERNORM = _pair("self_attn.k_layernorm", "self_attn.q_layernorm", "BTHD", hybrid=True)
_LAYERNORM_TRANSPOSED = _pair("self_attn.k_layernorm", "self_attn.q_layernorm", "BHTD", when=(("qk_layernorm", True),))
_PROJECTED_ABSOLUTE = _pair("self_attn.k_proj", "self_attn.q_proj", "BT(HD)", note=_ABSOLUTE)
_PROJECTED_HYBRID = _pair("self_attn.k_proj", "self_attn.q_proj", "BT(HD)", hybrid=True)
_CONFIGURED_NORM = (
    _pair("self_attn.k_norm", "self_attn.q_norm", "BTHD", when=(("use_qk_norm", True),)),
    _PROJECTED,
)

#: transformers ``model_type`` of the text model -> its layouts; the first whose ``when`` agrees holds.
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    # separate projections
    "arcee": (_PROJECTED,),
    "aria_text": (_PROJECTED,),
    "bitnet": (_PROJECTED,),
    "cohere2": (_PROJECTED,),
    "cohere2_moe": (_PROJECTED,),
    "cwm": (_PROJECTED,),
    "diffllama": (_PROJECTED,),
    "ernie4_5": (_PROJECTED,),
    "ernie4_5_moe": (_PROJECTED,),
    "gemma": (_PROJECTED,),
    "gemma2": (_PROJECTED,),
    "glm": (_PROJECTED,),
    "glm4": (_PROJECTED,),
    "gpt_oss": (_PROJECTED,),
    "granite": (_PROJECTED,),
    "granite_swa": (_PROJECTED,),
    "granitemoe": (_PROJECTED,),
    "granitemoe_swa": (_PROJECTED,),
    "granitemoeshared": (_PROJECTED,),
    "helium": (_PROJECTED,),
    "hyperclovax": (_PROJECTED,),
    "internlm3": (_PROJECTED,),
    "iquestcoder": (_PROJECTED,),
    "jais2": (_PROJECTED,),
    "llama": (_PROJECTED,),
    "ministral": (_PROJECTED,),
    "ministral3": (_PROJECTED,),
    "mistral": (_PROJECTED,),
    "mixtral": (_PROJECTED,),
    "nemotron": (_PROJECTED,),
    "olmo": (_pair("self_attn.k_proj", "self_attn.q_proj", "BT(HD)", unless="clip_qkv"),),
    "phimoe": (_PROJECTED,),
    "qwen2": (_PROJECTED,),
    "qwen2_5_vl_text": (_PROJECTED,),
    "qwen2_moe": (_PROJECTED,),
    "qwen2_vl_text": (_PROJECTED,),
    "seed_oss": (_PROJECTED,),
    "smollm3": (_PROJECTED,),
    "solar_open": (_PROJECTED,),
    "starcoder2": (_PROJECTED,),
    "vaultgemma": (_PROJECTED,),
    "gptj": (_pair("attn.k_proj", "attn.q_proj", "BT(HD)", blocks="h"),),
    # separate projections without rotary positions
    "biogpt": (_PROJECTED_ABSOLUTE,),
    "ctrl": (
        _pair(
            "multi_head_attention.Wk",
            "multi_head_attention.Wq",
            "BT(HD)",
            value=Site("multi_head_attention.Wv", "BT(HD)"),
            blocks="h",
            note=_ABSOLUTE,
        ),
    ),
    "gpt_neo": (_pair("attn.attention.k_proj", "attn.attention.q_proj", "BT(HD)", blocks="h", note=_ABSOLUTE),),
    "opt": (_PROJECTED_ABSOLUTE,),
    "xglm": (_PROJECTED_ABSOLUTE,),
    # a norm after the projections
    "afmoe": (_NORMED,),
    "apertus": (_NORMED_TRANSPOSED,),
    "cohere": _CONFIGURED_NORM,
    "doge": (_NORMED,),
    "dots1": (_NORMED,),
    "exaone4": (_NORMED_TRANSPOSED,),
    "exaone_moe": (_NORMED_TRANSPOSED,),
    "flex_olmo": (_NORMED_FLAT,),
    "flint": (_NORMED,),
    "gemma3_text": (_NORMED_TRANSPOSED,),
    "glm4_moe": _CONFIGURED_NORM,
    "hy_v3": (_NORMED_TRANSPOSED,),
    "kolibri1": (_NORMED_TRANSPOSED,),
    "laguna": (_NORMED,),
    "mellum": (_NORMED,),
    "minimax_m2": (_NORMED_FLAT,),
    "minimax_m3_vl_text": (_NORMED,),
    "olmo2": (_NORMED_FLAT,),
    "olmo3": (_NORMED_FLAT,),
    "olmoe": (_pair("self_attn.k_norm", "self_attn.q_norm", "BT(HD)", unless="clip_qkv"),),
    "persimmon": (
        _pair(
            "self_attn.k_layernorm",
            "self_attn.q_layernorm",
            "BTHD",
            value=Site("self_attn.query_key_value", "BT(Hqkv)"),
            when=(("qk_layernorm", True),),
        ),
        _fused("self_attn.query_key_value", "BT(Hqkv)"),
    ),
    "phi": (_LAYERNORM_TRANSPOSED, _PROJECTED),
    "qwen3": (_NORMED,),
    "qwen3_moe": (_NORMED,),
    "qwen3_vl_moe_text": (_NORMED,),
    "qwen3_vl_text": (_NORMED,),
    "stablelm": (_LAYERNORM_TRANSPOSED, _PROJECTED),
    # hybrids: only layers with full attention of their own
    "falcon_h1": (_PROJECTED,),
    "gemma3n_text": (
        _pair(
            "self_attn.k_norm",
            "self_attn.q_norm",
            "BTHD",
            value=Site("self_attn.v_norm", "BTHD"),
            without="self_attn.is_kv_shared_layer",
            note="layers that share keys follow the edit of the layer they take them from",
        ),
    ),
    "gemma4_text": (
        _pair(
            "self_attn.k_norm",
            "self_attn.q_norm",
            "BTHD",
            value=Site("self_attn.v_norm", "BTHD"),
            hybrid=True,
            only="full_attention",
            note="sliding layers have other head sizes; layers that share keys follow the layer they take them from",
        ),
    ),
    "granitemoehybrid": (_PROJECTED_HYBRID,),
    "bamba": (_PROJECTED_HYBRID,),
    "jamba": (_PROJECTED_HYBRID,),
    "lfm2": (_LAYERNORM,),
    "lfm2_moe": (_LAYERNORM,),
    "lfm3": (_NORMED_HYBRID,),
    "llama4_text": (
        _pair(
            "self_attn.k_proj",
            "self_attn.q_proj",
            "BT(HD)",
            blocks="model.layers",
            without="self_attn.qk_norm",
            note="with use_qk_norm, only the layers without rotary positions: the others norm their keys after rotary",
        ),
    ),
    "mimo_v2_flash": (
        _pair(
            "self_attn.k_proj",
            "self_attn.q_proj",
            "BT(HD)",
            value=None,  # multiplied by a constant afterwards
            only="full_attention",
            note="sliding layers have another number of key heads",
        ),
    ),
    "minimax": (_PROJECTED_HYBRID,),
    "nemotron_h": (_pair("mixer.k_proj", "mixer.q_proj", "BT(HD)", hybrid=True),),
    "olmo_hybrid": (_pair("self_attn.k_norm", "self_attn.q_norm", "BT(HD)", hybrid=True),),
    "qwen3_5_moe_text": (_NORMED_HYBRID,),
    "qwen3_5_text": (_NORMED_HYBRID,),
    "qwen3_next": (_NORMED_HYBRID,),
    # fused projections
    "bloom": (_fused("self_attention.query_key_value", "BT(Hqkv)", blocks="h", note=_ALIBI),),
    "codegen": (_fused("attn.qkv_proj", "BT(4qvk)", blocks="h"),),
    "falcon": (
        _fused(
            "self_attention.query_key_value",
            "BT(Hqkv)",
            blocks="h",
            heads="num_kv_heads",
            when=(("new_decoder_architecture", True),),
        ),
        _fused("self_attention.query_key_value", "BT(qkv)", blocks="h", heads=1, when=(("multi_query", True),)),
        _fused("self_attention.query_key_value", "BT(Hqkv)", blocks="h", heads="num_attention_heads"),
    ),
    "gpt2": (_fused("attn.c_attn", "BT(qkv)", blocks="h", note=_ABSOLUTE),),
    "gpt_bigcode": (
        _fused("attn.c_attn", "BT(qkv)", blocks="h", heads=1, when=(("multi_query", True),), note=_ABSOLUTE),
        _fused("attn.c_attn", "BT(Hqkv)", blocks="h", heads="num_attention_heads", note=_ABSOLUTE),
    ),
    "gpt_neox": (_fused("attention.query_key_value", "BT(Hqkv)"),),
    "gpt_neox_japanese": (_fused("attention.query_key_value", "BT(Hqkv)"),),
    "jetmoe": (
        Layout(
            Site("self_attention.kv_proj", "BT(kv)"),
            None,
            Site("self_attention.kv_proj", "BT(kv)"),
            head_dim="kv_channels",
            note="queries go through experts: no AdaSEKA",
        ),
    ),
    "mpt": (_fused("attn.Wqkv", "BT(qkv)", blocks="blocks", unless="attn_config.clip_qkv", note=_ALIBI),),
    "phi3": (_fused("self_attn.qkv_proj", "BT(qkv)"),),
}

LATENT = (
    "its keys are expanded from a latent that it shares with the values (latent attention); a key of their own, which "
    "could be edited alone and stays in the cache, is not there"
)
_NORM_AFTER_ROTARY = (
    "it norms its keys after rotary positions: an edit before them is rescaled to the old length, which takes most of it "
    "away, and after them a subspace learned at one position means nothing at another"
)

#: transformers ``model_type`` -> why it cannot be steered.
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        "axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 dots3_note_text glm4_moe_lite glm_moe_dsa hy_v4 kimi_linear "
        "longcat_flash minicpm3 mistral4 youtu".split(),
        LATENT,
    ),
    "dbrx": "it clips its keys after they are projected",
    "deepseek_v4": "its keys are its values: an edit would change what is read, not only where attention goes",
    **dict.fromkeys(["hunyuan_v1_dense", "hunyuan_v1_moe", "nanochat"], _NORM_AFTER_ROTARY),
    "recurrent_gemma": "it keeps its keys in its own modules and not in a cache, so positions are not known",
}
