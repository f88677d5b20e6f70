"""Fading: the original keys and values of highlighted tokens go back into the cache once the answer has begun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from seka_rag.errors import SteeringError, UnsupportedModelError
from seka_rag.hf.rotary import turning_of
from seka_rag.hf.sites import KeySites
from seka_rag.hf.types import Arguments, Cache
from seka_rag.hf.window import given_tokens
from seka_rag.ops.edits import Part

#: A number of generated tokens, or a function that says of the tokens of an answer whether it is over.
Until = int | Callable[[list[int]], bool]


@dataclass
class _Piece:
    """Original keys ``[k, h, D]`` of one layer as they would be in the cache, of tokens in rows and columns of the prompt.

    With ``of`` "values" they are values.
    """

    layer: int
    rows: Tensor
    columns: Tensor
    heads: Tensor
    keys: Tensor
    count: int
    of: Literal["keys", "values"] = "keys"


@dataclass
class _Kept:
    """What is known of one cache: what to write into which rows, and what was generated in it."""

    batch: int = 0
    pieces: list[_Piece] = field(default_factory=list)
    passes: int = 0
    answers: list[list[int]] = field(default_factory=list)
    faded: list[bool] = field(default_factory=list)


class Fading:
    """Keeps keys and values as they are before they are edited, and writes them back, in each cache that holds the prompt.

    Args:
        sites: of the model.
        until: after how many generated tokens, for all rows; or what says it of each row's answer.
        length: T, tokens of the prompt.
    """

    refused = (
        "fading writes into the cache of one prompt, and continuous batching keeps all keys in blocks. Use fade=None"
    )

    def __init__(self, sites: KeySites, until: Until, length: int) -> None:
        self.sites, self.until, self.length = sites, until, length
        self._kept: WeakKeyDictionary[Cache, _Kept] = WeakKeyDictionary()
        self._pending = _Kept()  # of a prompt that was given without a cache: the model makes one
        self._start = 0

    def begin(self, arguments: Arguments, window: tuple[int, int], guesses: bool) -> None:
        """A pass that holds some of the prompt begins.

        Raises:
            UnsupportedModelError: it fills a cache that cannot be written.
            SteeringError: several tokens of the answer may come at once, or there is no cache.
        """
        cache, (self._start, length) = arguments.get("past_key_values"), window
        if cache is None:
            if length > self.length:
                raise SteeringError(
                    "fading puts keys back into a cache, and here the prompt is computed again for each token. Generate with "
                    "a cache (use_cache=True), or use fade=None"
                )
            self._pending = _Kept()
            return
        if guesses or self._start + length > self.length:
            raise SteeringError(_GUESSES)
        _check_writable(cache)
        if self._start == 0 or cache not in self._kept:
            self._kept[cache] = _Kept()

    def keep(self, layer: int, part: Part, keys: Tensor, heads: Tensor, arguments: Arguments) -> None:
        """Keep the keys ``[B, T, H, D]`` of a layer at the tokens of a pass, before they are edited.

        Raises:
            UnsupportedModelError: how this layer turns keys by their position is not known.
        """
        cache = arguments.get("past_key_values")
        kept = self._pending if cache is None else self._kept[cache]
        there = part.to(keys.device)
        old = keys[there.rows[:, None], there.columns[:, None], heads[None, :]].detach()
        turning = turning_of(self.sites, layer)
        turned = turning.factor * turning(old, _positions(arguments, there, self._start)[:, None])
        kept.batch = len(keys)
        columns = part.columns + self._start
        kept.pieces.append(_Piece(layer, part.rows, columns, heads, turned.to(keys.dtype), keys.shape[2]))

    def keep_values(self, layer: int, part: Part, values: Tensor, heads: Tensor, arguments: Arguments) -> None:
        """Keep the values ``[B, T, H, D]`` of a layer at the tokens of a pass, before they are edited."""
        cache = arguments.get("past_key_values")
        kept = self._pending if cache is None else self._kept[cache]
        there = part.to(values.device)
        old = values[there.rows[:, None], there.columns[:, None], heads[None, :]].detach()
        columns = part.columns + self._start
        kept.batch = len(values)
        kept.pieces.append(_Piece(layer, part.rows, columns, heads, old, values.shape[2], "values"))

    def step(self, arguments: Arguments) -> None:
        """A pass after the prompt begins: write the originals where it is time.

        Raises:
            SteeringError: it holds several tokens, as guesses are.
        """
        cache, given = arguments.get("past_key_values"), given_tokens(arguments)
        if cache is None:
            return
        if cache not in self._kept:
            if not self._pending.pieces:
                return
            _check_writable(cache)
            self._kept[cache], self._pending = self._pending, _Kept()
        kept = self._kept[cache]
        if not kept.pieces or all(kept.faded or [False]):
            return
        if given.shape[1] != 1:
            raise SteeringError(_GUESSES)
        kept.passes += 1
        if isinstance(self.until, int):
            if kept.passes >= self.until:
                self._write(cache, kept, range(len(given)))
            return
        if not kept.answers:
            kept.answers, kept.faded = [[] for _ in given], [False] * len(given)
            cache.reorder_cache = partial(_reorder, cache, kept)
        for answer, token in zip(kept.answers, given[:, 0].tolist(), strict=True):
            answer.append(token)
        new = [i for i, a in enumerate(kept.answers) if not kept.faded[i] and self.until(a)]
        if new:
            self._write(cache, kept, new)

    def close(self) -> None:
        """Leave the caches as they were found."""
        for cache in self._kept:
            vars(cache).pop("reorder_cache", None)

    @torch.no_grad()
    def _write(self, cache: Cache, kept: _Kept, rows: Sequence[int]) -> None:
        kept.faded = kept.faded or [False] * len(cache.layers[kept.pieces[0].layer].keys)
        kept.faded = [done or i in rows for i, done in enumerate(kept.faded)]
        for piece in kept.pieces:
            layer = cache.layers[piece.layer]
            held: Tensor = getattr(layer, piece.of)
            times = len(held) // kept.batch  # the rows of the prompt may have been repeated since
            at = (piece.rows[:, None] * times + torch.arange(times)).flatten()
            columns = (piece.columns - _dropped(layer)).repeat_interleave(times)
            here = torch.isin(at, torch.tensor(list(rows))) & (columns >= 0)
            device, every = held.device, held.shape[1] // piece.count  # some keep a head for each query head
            heads = (piece.heads[:, None] * every + torch.arange(every, device=device)).flatten()
            values = piece.keys.repeat_interleave(times, 0)[here.to(piece.keys.device)].repeat_interleave(every, 1)
            index = (at[here].to(device)[:, None], heads[None, :], columns[here].to(device)[:, None])
            held.index_put_(index, values.to(device, held.dtype))


_GUESSES = (
    "fading counts the tokens of an answer one by one, and assisted decoding or prompt lookup checks several at once. Use "
    "fade=None with them"
)


def _reorder(cache: Cache, kept: _Kept, order: Tensor) -> None:
    """In front of a cache's ``reorder_cache``, by which beams change places."""
    type(cache).reorder_cache(cache, order)
    places = order.tolist()
    kept.answers = [list(kept.answers[i]) for i in places]
    kept.faded = [kept.faded[i] for i in places]


def _check_writable(cache: Cache) -> None:
    from transformers.cache_utils import DynamicCache, StaticCache

    if not isinstance(cache, DynamicCache | StaticCache) or getattr(cache, "offloading", False):
        raise UnsupportedModelError(
            f"fading writes keys into the cache, which cannot be done in this {type(cache).__name__} (quantised, or moved "
            "away). Use fade=None, or a dynamic or static cache"
        )


def _dropped(layer: Any) -> int:
    """How many of the first positions a layer's cache no longer holds, because its window has moved on."""
    if not layer.is_sliding:
        return 0
    total = getattr(layer, "cumulative_length_int", None)
    total = layer.cumulative_length if total is None else total
    return max(0, int(total) - int(layer.keys.shape[-2]))


def _positions(arguments: Arguments, part: Part, start: int) -> Tensor:
    """The position of each of the tokens ``[k]``, as the model numbers them."""
    given: Tensor | None = arguments.get("position_ids")
    if given is None:
        return part.columns + start
    if given.ndim != 2:
        raise UnsupportedModelError("fading does not know how positions of several axes, as of images, turn a key")
    return given.to(part.rows.device)[part.rows if len(given) > 1 else torch.zeros_like(part.rows), part.columns]
