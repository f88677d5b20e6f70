"""The key, query and value sites of one loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.axes import read_heads, write_heads
from seka_rag.hf.layouts import Layout
from seka_rag.hf.types import Config, transformer


@dataclass(frozen=True)
class KeySites:
    """Where one model's keys, queries and values can be read, and its keys and values changed.

    Attributes:
        decoder: the text decoder, whose forward pass is one window of positions.
        layers: L, the number of decoder layers; layer ids count all of them.
        modules: layer id -> the module whose output holds the keys. A layer without attention that keeps keys (linear
            attention, convolution, shared keys of another layer) has none: it is neither learned nor steered.
        query_modules: layer id -> the module whose output holds the queries, for the same layers; empty where queries
            are not known.
        value_modules: layer id -> the module whose output holds the values, for the same layers; empty where values are not
            known, or are of another size than keys.
        heads, head_dim: H key-value heads of size D in the whole model; a model split by heads has fewer in each output.
        warning: what a user should know of how they were found.
        groups: G query heads per key-value head, as configured; where layers differ, the shape of their queries tells.
        shard: this process, from 0, and how many there are, among which the heads are split (tensor parallelism).
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
    warning: str = ""
    shard: tuple[int, int] = (0, 1)
    value_modules: Mapping[int, nn.Module] = field(default_factory=dict)

    def present(self, count: int) -> range:
        """Which key-value heads an output with ``count`` of them holds.

        Raises:
            UnsupportedModelError: the heads are not split evenly among the processes.
        """
        process, processes = self.shard
        if count == self.heads:
            return range(count)
        if count * processes != self.heads:
            raise UnsupportedModelError(
                f"an output with {count} of the {self.heads} key-value heads in process {process + 1} of {processes}: which "
                "heads these are is not known, so they cannot be steered"
            )
        return range(process * count, (process + 1) * count)

    def owners(self, queries: int) -> int:
        """How many key-value heads so many query heads belong to."""
        return self.heads if self.shard[1] == 1 else queries // self.groups

    def read(self, output: Tensor) -> Tensor:
        """The keys in the output of a key module: ``[B, T, H, D]``, a view where the layout allows one."""
        return read_heads(output, self.layout.key.axes, "k", self.head_dim, self.groups)

    def write(self, output: Tensor, keys: Tensor) -> Tensor:
        """A new output with these keys ``[B, T, H, D]``; whatever else it holds is a copy, bit for bit."""
        return write_heads(output, keys, self.layout.key.axes, "k", self.head_dim, self.groups)

    def read_value(self, output: Tensor) -> Tensor:
        """The values in the output of a value module: ``[B, T, H, D]``, as ``read`` gives keys."""
        assert self.layout.value is not None
        return read_heads(output, self.layout.value.axes, "v", self.head_dim, self.groups)

    def write_value(self, output: Tensor, values: Tensor) -> Tensor:
        """A new output with these values ``[B, T, H, D]``; whatever else it holds is a copy, bit for bit."""
        assert self.layout.value is not None
        return write_heads(output, values, self.layout.value.axes, "v", self.head_dim, self.groups)

    def read_query(self, output: Tensor) -> Tensor:
        """The queries in the output of a query module: ``[B, T, H G, D]``; query head i belongs to key head ``i // G``.

        Raises:
            UnsupportedModelError: where this family has its queries is not known.
        """
        if self.layout.query is None:
            raise UnsupportedModelError(f"where a {self.model_type} model has its queries is not known")
        return read_heads(output, self.layout.query.axes, "q", self.head_dim, self.groups)


def text_config(model: nn.Module) -> Config:
    """The configuration of the text model, also of a multimodal one."""
    return transformer(model).config.get_text_config()


def setting(config: Any, name: str | int, layer: int | None = None) -> Any:
    """A value of a configuration, by dotted name; None if it has none; that of one layer where layers differ.

    Without ``layer``, a value that differs from layer to layer is returned as the list of all.
    """
    if isinstance(name, int):
        return name
    for part in name.split("."):
        if part in (getattr(config, "per_layer_attributes", None) or ()):
            if layer is None:
                return [getattr(config.per_layer_config[i], part) for i in range(config.num_hidden_layers)]
            config = config.per_layer_config[layer]
        config = getattr(config, part, None)
    return config


def sites_of(model: nn.Module, layout: Layout, warning: str = "") -> KeySites:
    """The key sites of a model by a given layout.

    Raises:
        UnsupportedModelError: the model is not built like that.
    """
    config, decoder = text_config(model), transformer(model).get_decoder()
    family = config.model_type
    if layout.unless and setting(config, layout.unless) is not None:
        raise UnsupportedModelError(
            f"this {family} model sets {layout.unless}: its keys are changed after they are edited"
        )
    blocks = dict(enumerate(_below(decoder, layout.blocks) or ()))
    steered = {
        i: block
        for i, block in blocks.items()
        if (layout.only is None or config.layer_types[i] == layout.only)
        and not (layout.without and _below(block, layout.without))
        and not (layout.hybrid and _below(block, layout.key.path) is None)
    }
    modules = {i: _below(block, layout.key.path) for i, block in steered.items()}
    queries = {i: _below(block, layout.query.path) for i, block in steered.items()} if layout.query else {}
    if not modules or None in modules.values() or None in queries.values():
        raise UnsupportedModelError(
            f"this {family} model is not built as its family is: a layer below {layout.blocks!r} has no {layout.key.path!r}"
            + (f" or no {layout.query.path!r}" if layout.query else "")
        )
    values = {i: _below(block, layout.value.path) for i, block in steered.items()} if layout.value else {}
    if None in values.values():
        values = {}
    differ = getattr(config, "per_layer_attributes", None)  # else one layer speaks for all
    shapes = {_shape(config, layout, i) for i in (modules if differ else [min(modules)])}
    if len(shapes) > 1:
        raise UnsupportedModelError(f"the layers of this {family} model have different heads: {sorted(shapes)}")
    (heads, head_dim), *_ = shapes
    groups = setting(config, "num_attention_heads", min(modules)) // heads
    return KeySites(
        family, layout, decoder, len(blocks), modules, queries, heads, head_dim, groups, warning, _shard(model), values
    )


def _shard(model: nn.Module) -> tuple[int, int]:
    mesh = getattr(model, "_device_mesh", None)
    if mesh is None:
        return 0, 1
    mesh = mesh["tp"] if "tp" in (mesh.mesh_dim_names or ()) else mesh
    return mesh.get_local_rank(), mesh.size()


def _below(module: nn.Module, path: str) -> Any:
    """What lies at a dotted path below a module, or None."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _shape(config: Config, layout: Layout, layer: int) -> tuple[int, int]:
    """Heads and head size of one layer."""
    queries = setting(config, "num_attention_heads", layer)
    heads = setting(config, layout.heads, layer) or queries
    head_dim = setting(config, layout.head_dim, layer) or setting(config, "hidden_size", layer) // queries
    return heads, head_dim
