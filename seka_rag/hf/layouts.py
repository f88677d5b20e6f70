"""Where each model family computes its keys: one data row a family, no code.

A new family is one row here and one line in the tiny-model list of the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from seka_rag.errors import UnsupportedModelError

Axes = Literal["BT(HD)", "BTHD", "BHTD"]


@dataclass(frozen=True)
class Layout:
    """The module whose output is the key after its norm and before rotary positions, and the axes of that output."""

    site: str  # below a decoder layer
    axes: Axes


_PROJECTED = Layout("self_attn.k_proj", "BT(HD)")

#: transformers ``model_type`` of the text model -> layout.
LAYOUTS: dict[str, Layout] = {
    "llama": _PROJECTED,
    "mistral": _PROJECTED,
    "qwen2": _PROJECTED,
    "gemma": _PROJECTED,
    "gemma2": _PROJECTED,
    "qwen3": Layout("self_attn.k_norm", "BTHD"),
    "gemma3_text": Layout("self_attn.k_norm", "BHTD"),
}


@dataclass(frozen=True)
class KeySites:
    """The key sites of one loaded model.

    Attributes:
        decoder: the text decoder, whose forward pass is one window of positions.
        modules: one module a layer, whose output is the key.
        heads, head_dim: H key-value heads of size D.
    """

    model_type: str
    layout: Layout
    decoder: nn.Module
    modules: tuple[nn.Module, ...]
    heads: int
    head_dim: int

    def view(self, output: Tensor) -> Tensor:
        """A view of a site's output as keys ``[B, T, H, D]``."""
        if self.layout.axes == "BHTD":
            return output.transpose(1, 2)
        if self.layout.axes == "BTHD":
            return output
        return output.unflatten(-1, (self.heads, self.head_dim))

    def unview(self, keys: Tensor) -> Tensor:
        """Keys ``[B, T, H, D]`` in the axes of the site's output."""
        if self.layout.axes == "BHTD":
            return keys.transpose(1, 2)
        return keys if self.layout.axes == "BTHD" else keys.flatten(-2)


def text_config(model: nn.Module) -> Any:
    """The configuration of the text model, also of a multimodal one."""
    return model.config.get_text_config()  # type: ignore[operator, union-attr]


def find_key_sites(model: nn.Module) -> KeySites:
    """The key sites of a transformers model of a known family.

    Raises:
        UnsupportedModelError: an unknown family, or a model whose modules are not where its family has them.
    """
    if not hasattr(model, "config") or not hasattr(model, "get_decoder"):
        raise UnsupportedModelError(f"{type(model).__name__} is not a transformers model")
    config = text_config(model)
    layout = LAYOUTS.get(config.model_type)
    if layout is None:
        raise UnsupportedModelError(
            f"model family {config.model_type!r} is not known, so where its keys are is not known and it cannot be "
            f"steered. Known families: {', '.join(sorted(LAYOUTS))}"
        )
    decoder = model.get_decoder()  # type: ignore[operator]
    try:
        modules = tuple(layer.get_submodule(layout.site) for layer in decoder.layers)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"this {config.model_type} model has no {layout.site} in a decoder layer ({error})"
        ) from error
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return KeySites(config.model_type, layout, decoder, modules, heads, head_dim)
