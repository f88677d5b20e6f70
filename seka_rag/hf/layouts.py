"""Where each model family computes its keys and queries: data, no code.

A new family is one row here and one line in the tiny-model list of the tests.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """A module below a decoder layer, and the axes of its output (see ``axes``)."""

    path: str
    axes: str


@dataclass(frozen=True)
class Layout:
    """Where one family has its keys and queries: after their norm, if there is one, and before rotary positions.

    Attributes:
        key, query: the two sites; the same module where the projection is fused.
        blocks: the list of decoder layers, below the decoder.
    """

    key: Site
    query: Site
    blocks: str = "layers"


def _separate(key: str, query: str, axes: str, blocks: str = "layers") -> Layout:
    return Layout(Site(key, axes), Site(query, axes), blocks)


_PROJECTED = _separate("self_attn.k_proj", "self_attn.q_proj", "BT(HD)")
_NORMED = _separate("self_attn.k_norm", "self_attn.q_norm", "BTHD")
_NORMED_TRANSPOSED = _separate("self_attn.k_norm", "self_attn.q_norm", "BHTD")

#: transformers ``model_type`` of the text model -> layout.
LAYOUTS: dict[str, Layout] = {
    "llama": _PROJECTED,
    "mistral": _PROJECTED,
    "qwen2": _PROJECTED,
    "gemma": _PROJECTED,
    "gemma2": _PROJECTED,
    "qwen3": _NORMED,
    "gemma3_text": _NORMED_TRANSPOSED,
}
