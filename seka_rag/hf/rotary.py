"""How each layer turns keys and queries by their position and weighs their product, measured on one small pass.

The frequencies are those of the model's own rotary module, read when they are used (dynamic ones change with the prompt).
Which module, which dimensions and which factor belong to a layer is not looked up by family but shown: the key in the cache
must be the key at the site, turned like that, and the scores of attention must be the product of the turned query and key.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import Context
from dataclasses import dataclass, replace
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.hooks import recording
from seka_rag.hf.kernels import SOFTMAX, sdpa_arguments, sdpa_scores
from seka_rag.hf.sites import KeySites, setting, text_config
from seka_rag.hf.taps import tapped
from seka_rag.hf.verify import LENGTH, cached, constant, probe_ids, quietly, run
from seka_rag.ops.rotation import STRAIGHT, Pairing, rotate

_ROWS = 6
_ROUNDING = 0.01  # of a constant that is measured on keys in half precision


@dataclass(frozen=True, eq=False)
class Turning:
    """How one layer treats positions: key ``[D]`` at position p is turned by p times the frequencies.

    Attributes:
        factor: by what a key is multiplied besides, on its way to the cache.
        score: attention's score of a query and a key is ``score (R(T) q) . (R(j) k)``, both as they are at their sites; None
            if it could not be measured.
        frequencies: where they are: a module and the name of its buffer, or a tensor ``[r / 2]``; None without rotary
            positions.
        pairing: which dimensions turn together.
        measured: the frequencies on the pass that measured them.
    """

    frequencies: tuple[nn.Module, str] | Tensor | None
    pairing: Pairing = STRAIGHT
    factor: float = 1.0
    score: float | None = None
    measured: Tensor | None = None

    @property
    def of_short_prompts(self) -> Turning:
        """The same, whatever ran since it was measured, where frequencies change with the length of the prompt."""
        return replace(self, frequencies=self.measured)

    @property
    def turns(self) -> bool:
        """Whether there are rotary positions in this layer."""
        return self.frequencies is not None

    @property
    def attention_factor(self) -> float:
        """By what its module multiplies sines and cosines (yarn, longrope)."""
        if self.frequencies is None or isinstance(self.frequencies, Tensor):
            return 1.0
        module, name = self.frequencies
        return float(getattr(module, name.replace("inv_freq", "attention_scaling"), 1.0))

    def __call__(self, x: Tensor, distances: Tensor) -> Tensor:
        """``R(d) x`` in float32: vectors ``[..., D]`` and distances in tokens that broadcast with their leading dimensions."""
        given = self._current()
        if given is None:
            return x.float()
        return rotate(x.float(), distances[..., None].float() * given.to(x.device, torch.float32), self.pairing)

    def _current(self) -> Tensor | None:
        """The frequencies as they are now."""
        return getattr(*self.frequencies) if isinstance(self.frequencies, tuple) else self.frequencies


_known: WeakKeyDictionary[nn.Module, dict[int, Turning | None]] = WeakKeyDictionary()
_lock = threading.Lock()


def score_of(sites: KeySites, layer: int) -> tuple[Turning, float]:
    """How a layer turns keys, and the factor of its scores.

    Raises:
        UnsupportedModelError: as ``turning_of``, or the scores could not be measured.
    """
    turning = turning_of(sites, layer)
    if turning.score is None:
        raise UnsupportedModelError(
            f"layer {layer} of this {sites.model_type} model: how its attention weighs queries and keys could not be "
            "measured, as its kernel does not let it be seen. Load the model with attn_implementation='sdpa' or 'eager'"
        )
    return turning, turning.score


def turning_of(sites: KeySites, layer: int) -> Turning:
    """How a layer turns keys, found once for each model.

    Raises:
        UnsupportedModelError: it could not be shown.
    """
    with _lock:
        if sites.decoder not in _known:  # in a context of its own: steering that is open here must not touch the pass
            _known[sites.decoder] = Context().run(_measure, sites)
    found = _known[sites.decoder][layer]
    if found is None:
        raise UnsupportedModelError(
            f"layer {layer} of this {sites.model_type} model: how it turns keys by their position could not be shown with the "
            "frequencies of its modules"
        )
    return found


def _measure(sites: KeySites) -> dict[int, Turning | None]:
    queries: dict[int, Tensor] = {}

    def tap_queries(arguments: Any) -> Any:
        return [
            (module, lambda output, i=layer: queries.update({i: sites.read_query(output).detach()}))
            for layer, module in sites.query_modules.items()
        ]

    ids = probe_ids(sites.decoder, _ROWS)
    with quietly(sites.decoder), recording(sites) as keys, tapped(sites.decoder, tap_queries), _Scores() as seen:
        output = run(sites.decoder, ids)
    found: dict[int, Turning | None] = {}
    for layer in sites.modules:
        turning = _turning(sites, keys[layer], cached(output, layer, sites.heads)[0])
        if turning is not None:
            turning = replace(turning, score=_score(sites, turning, queries.get(layer), keys[layer], seen))
        found[layer] = turning
    return found


def _turning(sites: KeySites, before: Tensor, after: Tensor) -> Turning | None:
    """How keys ``[B, T, H, D]`` at the site become those in the cache, up to a constant; None if no way explains it."""
    positions = torch.arange(before.shape[1], device=before.device)[:, None]
    for way in (Turning(None), *_ways(sites)):
        factor = constant(way(before, positions), after)
        if factor is not None:
            known, now = way.attention_factor, way._current()
            factor = known if abs(factor / known - 1) < _ROUNDING else factor
            return replace(way, factor=factor, measured=None if now is None else now.clone())
    return None


def _ways(sites: KeySites) -> Iterator[Turning]:
    head_dim = sites.head_dim
    for module in sites.decoder.modules():
        for name, values in module.named_buffers(recurse=False):
            if (
                name.endswith("inv_freq")
                and "original" not in name
                and values.ndim == 1
                and 2 * len(values) <= head_dim
            ):
                for interleaved, start in product((False, True), sorted({0, head_dim - 2 * len(values)})):
                    yield Turning((module, name), Pairing(start, interleaved))
    r = setting(text_config(sites.decoder), "rotary_dim") or head_dim  # families that keep a table of sines instead
    table = 1.0 / 10_000 ** (torch.arange(0, r, 2).float() / r)
    for interleaved in (False, True):
        yield Turning(table, Pairing(0, interleaved))


def _score(sites: KeySites, turning: Turning, queries: Tensor | None, keys: Tensor, seen: _Scores) -> float | None:
    """The factor between the product of turned queries and keys and the scores of some attention that was seen."""
    if queries is None:
        return None
    positions = torch.arange(keys.shape[1], device=keys.device)[:, None]
    q, k = turning(queries, positions).transpose(1, 2), turning(keys, positions).transpose(1, 2)  # [B, heads, T, D]
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    wanted = _centred(q[:, :, -1:] @ k.mT)
    cap = setting(text_config(sites.decoder), "attn_logit_softcapping")
    for scores in seen.found:
        if scores.shape[:2] == wanted.shape[:2] and scores.shape[-2] == LENGTH:
            scores = scores[:, :, -1:, :LENGTH].double()
            for read in (scores, cap * (scores / cap).clamp(-1, 1).atanh()) if cap else (scores,):
                factor = constant(wanted, _centred(read).to(keys.dtype))
                if factor is not None:
                    return factor
    return None


def _centred(scores: Tensor) -> Tensor:
    """Without what all keys, or all rows, have in common: the largest score, or a bias by distance (ALiBi)."""
    scores = scores - scores.mean(-1, keepdim=True)
    return scores - scores.mean(0, keepdim=True)


class _Scores(TorchFunctionMode):
    """Sees the scores ``[B, heads, T, T]`` of every attention in this thread, before the mask where it can."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            given = sdpa_arguments(args, named)
            self.found.append(sdpa_scores(given["query"].detach(), given["key"].detach(), given.get("scale")))
        elif func in SOFTMAX and args[0].ndim in (3, 4) and args[0].shape[-2] == LENGTH:
            scores = args[0].detach()
            if scores.ndim == 4 or len(scores) % _ROWS == 0:  # rows and heads may be one dimension
                self.found.append(scores if scores.ndim == 4 else scores.unflatten(0, (_ROWS, -1)))
        return func(*args, **named)
