"""Proof, on one small batch, that a model's key sites are what they are taken for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.hooks import recording
from seka_rag.hf.sites import KeySites, text_config
from seka_rag.hf.taps import Tap, tapped
from seka_rag.hf.types import Arguments, Output

LENGTH = 7  # shorter than any sliding window


@dataclass(frozen=True)
class LayerProof:
    """What the check showed for one layer.

    Attributes:
        scale: the constant by which the model multiplies the tapped key (1 but for a few families).
        rotary: whether the key changes with its position after the site; False in layers without rotary positions.
        query: whether the tapped query was seen to be the query of attention. False also where the attention kernel
            does not let it be seen.
    """

    scale: float
    rotary: bool
    query: bool


def verify_key_sites(model: nn.Module, sites: KeySites) -> dict[int, LayerProof]:
    """Check every steered layer of a model: a plain and an edited forward pass of a few tokens.

    At position 0 rotary positions are the identity, so the tapped key must be the key in the cache there, up to one
    constant for all tokens. Then one row for each layer has that layer's key changed through the site: the key in the
    cache must become the new one, other tokens' keys and all values of the layer must stay.

    Args:
        model: a transformers model; given back as it was.
        sites: the sites to check, such as those of ``find_key_sites``.

    Returns:
        Layer id -> what was shown.

    Raises:
        UnsupportedModelError: a layer fails, with how.
    """
    layers = list(sites.modules)
    ids = probe_ids(model, max(4, len(layers)))
    queries: dict[int, Tensor] = {}

    def tap_queries(arguments: object) -> Iterable[tuple[nn.Module, Tap]]:
        def keep(layer: int) -> Tap:
            return lambda output: queries.update({layer: sites.read_query(output)})

        return [(module, keep(layer)) for layer, module in sites.query_modules.items()]

    def edit_one_row(arguments: object) -> Iterable[tuple[nn.Module, Tap]]:
        def edit(row: int) -> Tap:
            def tap(output: Tensor) -> Tensor:
                keys = sites.read(output).clone()
                keys[row, 0] = 1.5 * keys[row, 0].flip(-1)
                return sites.write(output, keys)

            return tap

        return [(sites.modules[layer], edit(row)) for row, layer in enumerate(layers)]

    with quietly(model), recording(sites) as keys, tapped(sites.decoder, tap_queries), AttentionInputs() as seen:
        plain = run(sites.decoder, ids)
    with quietly(model), tapped(sites.decoder, edit_one_row):
        edited = run(sites.decoder, ids)
    proofs = {}
    for row, layer in enumerate(layers):
        where = f"layer {layer} of this {sites.model_type} model, {sites.layout.key.path}"
        k, v = cached(plain, layer, sites.heads)
        if layer not in keys or keys[layer].shape != k.shape:
            shape = list(keys[layer].shape) if layer in keys else "nothing"
            raise UnsupportedModelError(f"{where}: the cache has keys {list(k.shape)}, the site gives {shape}")
        scale = constant(keys[layer][:, 0], k[:, 0])
        if scale is None:
            raise UnsupportedModelError(f"{where}: at position 0 the tapped key is not the key in the cache")
        new_k, new_v = cached(edited, layer, sites.heads)
        if constant(1.5 * keys[layer][row, 0].flip(-1), new_k[row, 0]) is None:
            raise UnsupportedModelError(f"{where}: a key changed there does not reach the cache")
        if not same(k[row, 1:], new_k[row, 1:]) or not same(v[row], new_v[row]):
            raise UnsupportedModelError(f"{where}: changing one key there also changes other keys or values")
        query = layer in queries and any(
            _is_query(q, kk, queries[layer], k, sites.heads) for q, kk in seen.pairs if q.shape[0] % len(ids) == 0
        )
        proofs[layer] = LayerProof(scale, not same(scale * keys[layer], k), query)
    return proofs


class AttentionInputs(TorchFunctionMode):
    """Sees the queries and keys ``[B, heads, T, D]`` of every attention in this thread, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Arguments | None = None
    ) -> Any:
        named = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            q, k = (args[i] if len(args) > i else named[name] for i, name in enumerate(("query", "key")))
            self.pairs.append((q.detach(), k.detach()))
        elif func in (torch.matmul, torch.Tensor.matmul) and args[0].ndim == 4 and args[0].shape[-2] == LENGTH:
            q, k = args[0], args[1].transpose(-1, -2)
            if q.shape[-1] == k.shape[-1] and q.shape[-2] == k.shape[-2]:
                self.pairs.append((q.detach(), k.detach()))
        return func(*args, **named)


def _is_query(q: Tensor, k: Tensor, tapped: Tensor, keys: Tensor, heads: int) -> bool:
    """Whether an attention belongs to a layer (its keys are the layer's) and the tapped query entered it."""
    if k.shape[1] % heads or q.shape[1] != tapped.shape[2] or k.shape[-1] != keys.shape[-1]:
        return False
    k = k[:, :: k.shape[1] // heads, 0]
    return k.shape == keys[:, 0].shape and same(k, keys[:, 0]) and constant(tapped[:, 0], q[:, :, 0]) is not None


def probe_ids(model: nn.Module, rows: int) -> Tensor:
    """``[rows, LENGTH]`` token ids; each row begins with another token."""
    size = min(text_config(model).vocab_size, 30_000)
    device = next(model.parameters()).device
    ids: Tensor = (torch.arange(rows * LENGTH, device=device) * 37 + 11) % size
    return ids.view(rows, LENGTH)


def run(decoder: nn.Module, ids: Tensor) -> Output:
    """One forward pass with a fresh cache.

    Raises:
        UnsupportedModelError: the pass fails, or leaves no cache of keys.
    """
    try:
        output: Output = decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
    except Exception as error:  # whatever a model that is not known may raise
        raise UnsupportedModelError(f"a forward pass of {list(ids.shape)} tokens fails: {error}") from error
    if not getattr(getattr(output, "past_key_values", None), "layers", None):
        raise UnsupportedModelError("the model keeps no keys in a cache, so no key can be checked or stay edited")
    return output


def cached(output: Output, layer: int, heads: int | None = None) -> tuple[Tensor, Tensor]:
    """Keys and values ``[B, T, H, D]`` of a layer's cache, each head once; empty where the layer has none."""
    layers = output.past_key_values.layers
    keys: Tensor | None = getattr(layers[layer], "keys", None) if layer < len(layers) else None
    if keys is None or keys.ndim != 4:
        return torch.empty(0), torch.empty(0)
    values = layers[layer].values
    every = keys.shape[1] // heads if heads else 1
    return keys.transpose(1, 2)[:, :, :: every or 1], values.transpose(1, 2)[:, :, :: every or 1]


def constant(a: Tensor, b: Tensor) -> float | None:
    """The c > 0 with ``b = c a``, or None."""
    x, y = a.double().flatten(), b.double().flatten()
    if x.shape != y.shape or not x.norm() or not y.norm():
        return None
    c = float(x @ y / (x @ x))
    return c if c > 0 and (y - c * x).norm() <= _tolerance(b) * y.norm() else None


def same(a: Tensor, b: Tensor) -> bool:
    """Equal within the rounding of their dtype."""
    return bool((a.double() - b.double()).norm() <= _tolerance(b) * b.double().norm())


def _tolerance(values: Tensor) -> float:
    return 1e-4 if values.dtype in (torch.float32, torch.float64) else 3e-2


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without dropout; the model's own mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def quietly(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the model's own mode afterwards."""
    with evaluating(model), torch.inference_mode():
        yield
