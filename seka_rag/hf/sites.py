"""The key and query sites of one loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.axes import read_heads, write_heads
from seka_rag.hf.layouts import LAYOUTS, Layout


@dataclass(frozen=True)
class KeySites:
    """Where one model's keys and queries can be read and its keys changed.

    Attributes:
        decoder: the text decoder, whose forward pass is one window of positions.
        layers: L, the number of decoder layers; layer ids count all of them.
        modules: layer id -> the module whose output holds the keys. A layer without attention that keeps keys (linear
            attention, convolution, shared keys of another layer) has none: it is neither learned nor steered.
        query_modules: layer id -> the module whose output holds the queries, for the same layers.
        heads, head_dim: H key-value heads of size D in the whole model; a model split by heads has fewer in each output.
        groups: G query heads per key-value head.
    """

    model_type: str
    layout: Layout
    decoder: nn.Module
    layers: int
    modules: Mapping[int, nn.Module]
    query_modules: Mapping[int, nn.Module]
    heads: int
    head_dim: int
    groups: int

    def read(self, output: Tensor) -> Tensor:
        """The keys in the output of a key module: ``[B, T, H, D]``, a view where the layout allows one."""
        return read_heads(output, self.layout.key.axes, "k", self.head_dim, self.groups)

    def write(self, output: Tensor, keys: Tensor) -> Tensor:
        """A new output with these keys ``[B, T, H, D]``; whatever else it holds is a copy, bit for bit."""
        return write_heads(output, keys, self.layout.key.axes, "k", self.head_dim, self.groups)

    def read_query(self, output: Tensor) -> Tensor:
        """The queries in the output of a query module: ``[B, T, H G, D]``; query head i belongs to key head ``i // G``."""
        return read_heads(output, self.layout.query.axes, "q", self.head_dim, self.groups)


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
        blocks = dict(enumerate(decoder.get_submodule(layout.blocks)))
        modules = {i: block.get_submodule(layout.key.path) for i, block in blocks.items()}
        queries = {i: block.get_submodule(layout.query.path) for i, block in blocks.items()}
    except AttributeError as error:
        raise UnsupportedModelError(f"this {config.model_type} model is not built as its family is: {error}") from error
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    groups = config.num_attention_heads // heads
    return KeySites(config.model_type, layout, decoder, len(blocks), modules, queries, heads, head_dim, groups)
