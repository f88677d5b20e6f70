"""A family that is not in the table: find its keys by structure, and prove them on a small forward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.axes import read_heads
from seka_rag.hf.layouts import LATENT, Layout, Site
from seka_rag.hf.sites import KeySites, sites_of, text_config
from seka_rag.hf.types import transformer
from seka_rag.hf.verify import AttentionInputs, cached, constant, probe_ids, quietly, run, same, verify_key_sites

#: Axes with heads and head size in one dimension -> what it holds; none for the one part that is asked for.
_FLAT = {"BT(HD)": "", "BT(qkv)": "qkv", "BT(Hqkv)": "qkv", "BT(4qvk)": "qkv", "BT(kv)": "kv", "BT(Hkv)": "kv"}
_probed: WeakKeyDictionary[nn.Module, Layout | str] = WeakKeyDictionary()

#: One module's output in one layer: (layer, path below the layer) -> input and output, in the order they ran.
_Calls = dict[tuple[int, str], tuple[object, Tensor]]


def probe(model: nn.Module) -> KeySites:
    """The key sites of a model of an unknown family, proven by ``verify_key_sites``; found once for each model object.

    Raises:
        UnsupportedModelError: none could be proven, with what was tried.
    """
    if model not in _probed:
        try:
            layout = _search(model)
            verify_key_sites(model, sites_of(model, layout))
            _probed[model] = layout
        except UnsupportedModelError as error:
            _probed[model] = str(error)
    found = _probed[model]
    family = text_config(model).model_type
    if isinstance(found, str):
        raise UnsupportedModelError(
            f"model family {family!r} is not known, and probing the model did not prove where its keys are: {found}"
        )
    return sites_of(
        model,
        found,
        warning=f"model family {family!r} is not in the table of families; its keys were found by probing, "
        f"at {found.key.path} ({found.key.axes})",
    )


def _search(model: nn.Module) -> Layout:
    decoder = transformer(model).get_decoder()
    config = text_config(model)
    lists = [
        (path, module)
        for path, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers
    ]
    if not lists:
        raise UnsupportedModelError(
            f"no list of {config.num_hidden_layers} decoder layers below {type(decoder).__name__}"
        )
    if any(path.endswith(("kv_b_proj", "kv_a_proj_with_mqa")) for path, _ in decoder.named_modules()):
        raise UnsupportedModelError(LATENT)
    blocks, layers = lists[0]
    ids = probe_ids(model, 4)
    with quietly(model), AttentionInputs() as seen, ExitStack() as stack:
        calls = _record(layers, stack)
        output = run(decoder, ids)
    keys = {i: k for i in range(len(layers)) if len(k := cached(output, i)[0])}
    shapes = {k.shape for k in keys.values()}
    if len(shapes) != 1:
        raise UnsupportedModelError(f"the layers cache keys of different shapes: {sorted(map(list, shapes))}")
    ((_, _, heads, head_dim),) = shapes
    groups = config.num_attention_heads // heads
    tried = {path for i, path in calls if i in keys}
    candidates = [
        (path, axes)
        for path in dict.fromkeys(path for i, path in calls if i in keys)
        for axes in _axes(calls, keys, path, heads, groups, head_dim, "k")
    ]
    # A key that differs from the cached one at other positions is surely before rotary positions. Where none does, there
    # may be no rotary positions, or the module runs after them: then only a projection, or what directly follows it.
    found = [c for c in candidates if any(_turned(calls[i, c[0]], k, c[1], groups) for i, k in keys.items())]
    found = found or [c for c in candidates if _projected(calls, keys, *c, groups)]
    if not found:
        names = ", ".join(sorted(tried))
        raise UnsupportedModelError(f"no module of a layer gives the key before rotary positions (tried: {names})")
    key = Site(*found[-1])  # the last to run: after the norm
    queries = _queries(seen.pairs, keys, heads)
    sites = [
        (path, axes)
        for path in dict.fromkeys(path for i, path in calls if i in keys)
        for axes in _axes(calls, queries, path, heads, groups, head_dim, "q")
        if len(queries) == len(keys)
    ]
    query = Site(*sites[-1]) if sites else None
    return Layout(key, query, blocks=blocks, hybrid=len(keys) < len(layers), heads=heads, head_dim=head_dim)


def _record(layers: nn.ModuleList, stack: ExitStack) -> _Calls:
    """Inputs and outputs of all modules in all layers, of forward passes of this thread."""
    calls: _Calls = {}
    me = threading.get_ident()

    def after(name: tuple[int, str]) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            if threading.get_ident() == me and isinstance(output, Tensor):
                calls[name] = (args[0] if args else None, output)

        return hook

    for i, layer in enumerate(layers):
        for path, module in layer.named_modules():
            if path:
                stack.callback(module.register_forward_hook(after((i, path))).remove)
    return calls


def _axes(
    calls: _Calls, targets: dict[int, Tensor], path: str, heads: int, groups: int, head_dim: int, part: str
) -> Iterator[str]:
    """The axes by which a module's output at position 0 is the target ``[B, T, heads, D]`` in every layer."""
    for axes in ("BTHD", "BHTD", *_FLAT) if targets else ():
        for layer, target in targets.items():
            read = _read(calls.get((layer, path), (None, None))[1], axes, part, heads, groups, head_dim)
            if read is None or read.shape != target.shape or constant(read[:, 0], target[:, 0]) is None:
                break
        else:
            yield axes
            return


def _read(output: object, axes: str, part: str, heads: int, groups: int, head_dim: int) -> Tensor | None:
    """``read_heads``, or None where the output cannot have these axes."""
    if not isinstance(output, Tensor) or output.ndim != (3 if axes in _FLAT else 4):
        return None
    if axes in _FLAT:
        counts = {"q": heads * groups, "k": heads, "v": heads}
        parts = _FLAT[axes] or part
        if part not in parts or output.shape[-1] != head_dim * sum(counts[p] for p in parts):
            return None
    if "4" in axes and heads % 4:
        return None
    return read_heads(output, axes, part, head_dim, groups)


def _turned(call: tuple[object, Tensor], keys: Tensor, axes: str, groups: int) -> bool:
    """Whether an output that is the cached key at position 0 differs from it at other positions."""
    read = read_heads(call[1], axes, "k", keys.shape[-1], groups)
    return not same((constant(read[:, 0], keys[:, 0]) or 1.0) * read, keys)


def _projected(calls: _Calls, keys: dict[int, Tensor], path: str, axes: str, groups: int) -> bool:
    """Whether a module is a projection of the hidden state, or is given a projection's output unchanged."""
    layer, k = next(iter(keys.items()))
    given, output = calls[layer, path]
    if not isinstance(given, Tensor):
        return False
    if _FLAT.get(axes) or (given.ndim == 3 and given.shape[-1] != output.shape[-1]):
        return True
    earlier = [o for (i, p), (_, o) in calls.items() if i == layer and p != path]
    return any(_holds(o, given, k, groups) for o in earlier)


def _holds(projected: object, given: Tensor, keys: Tensor, groups: int) -> bool:
    """Whether a projection's output holds, as its keys, exactly what a norm was given."""
    heads, head_dim = keys.shape[-2:]
    reads = [_read(given, axes, "k", heads, groups, head_dim) for axes in ("BT(HD)", "BTHD", "BHTD")]
    normed = [r for r in reads if r is not None and r.shape == keys.shape]
    sources = [_read(projected, axes, "k", heads, groups, head_dim) for axes in _FLAT]
    return any(same(s, r) for s in sources if s is not None for r in normed)


def _queries(pairs: list[tuple[Tensor, Tensor]], keys: dict[int, Tensor], heads: int) -> dict[int, Tensor]:
    """The queries ``[B, T, Q, D]`` that attention was given in each layer, known by the layer's keys."""
    found: dict[int, Tensor] = {}
    for q, k in pairs:
        if k.ndim == 4 and k.shape[1] % heads == 0:
            k = k[:, :: k.shape[1] // heads].transpose(1, 2)
            for i, key in keys.items():
                if i not in found and k.shape == key.shape and same(k, key):  # later ones may share the keys
                    found[i] = q.transpose(1, 2)
    return found
