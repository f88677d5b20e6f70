"""Contrasting a model's next tokens with those it would choose without the highlights: a second pass, a second cache."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from seka_rag.errors import SteeringError, UnsupportedModelError
from seka_rag.hf.marks import Marks, Tally
from seka_rag.hf.paged import Requests, following
from seka_rag.hf.sites import KeySites
from seka_rag.hf.taps import bound_to, by_name, original, parameters_of, replaced
from seka_rag.hf.types import Arguments, Cache
from seka_rag.hf.window import Windows, expecting_guesses, given_tokens

#: Logits with the highlighted tokens, and without them, ``[B, T, V]`` float32 -> those that take their place.
Combine = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def contrasting(model: nn.Module, sites: KeySites, marks: Marks, combine: Combine) -> Iterator[Tally]:
    """Replace the logits of every forward pass of the model inside the ``with``, in this thread.

    The second pass gets the same tokens. Highlighted ones are masked from attention and have no position, which is as if they
    were not in the prompt. Rows without a highlight keep their logits.

    Yields:
        The tally of highlighted tokens that passes over the prompt held (as of layer 0).

    Raises:
        UnsupportedModelError: layers without attention, which cannot leave tokens out; inside: masks of other kinds.
        SteeringError: inside: guesses of assisted decoding, a highlight in a cache that is there already, or one at the end of
            a prompt.
    """
    if len(sites.modules) < sites.layers:
        raise UnsupportedModelError(
            f"this {sites.model_type} model has layers without keys of their own, which cannot leave highlighted tokens out"
        )
    owner = bound_to(model, "get_decoder") or model
    if any(pair[0] is owner for pair in _open.get()):
        raise SteeringError("contrastive decoding is open on this model already; it cannot be nested")
    contrast = _Contrast(marks, combine)
    with ExitStack() as stack:
        stack.enter_context(replaced([owner], _at_model))
        stack.enter_context(following(model, Requests(marks.lengths, _IN_BLOCKS)))
        stack.enter_context(expecting_guesses(model, contrast.windows))
        _open.set((*_open.get(), (owner, contrast)))
        try:
            yield contrast.tally
        finally:
            contrast.close()
            _open.set(tuple(pair for pair in _open.get() if pair[1] is not contrast))


_IN_BLOCKS = "continuous batching has no second cache for the pass without the highlights. Generate without it"


class _Contrast:
    """The second pass beside each pass over one batch of prompts."""

    def __init__(self, marks: Marks, combine: Combine) -> None:
        self.marks, self.combine = marks, combine
        self.tally, self.windows = Tally(), Windows(marks.length)
        self._second: WeakKeyDictionary[Cache, Cache] = WeakKeyDictionary()

    def run(self, forward: Callable[..., Any], given: Arguments) -> Any:
        """Both passes; the output of the first with other logits."""
        tokens, cache = given_tokens(given), given.get("past_key_values")
        window = self.windows.read(given)
        if self.windows.guesses:
            raise SteeringError("contrastive decoding cannot follow guesses of assisted decoding or prompt lookup")
        times = len(tokens) // self.marks.batch
        start = 0 if cache is None else int(cache.get_seq_length())
        if window is not None:
            self.tally.seen.append(start)
            self.tally.done.setdefault(0, []).append(self.marks.window(*window, len(tokens)).inside)
        second = self._inputs(given, start, times)
        if cache is not None:
            second["past_key_values"] = self._cache(cache, start)
        output = forward(**given)
        if not hasattr(output, "logits"):
            raise UnsupportedModelError("contrastive decoding needs a model whose output has logits by name")
        other = forward(**second)
        if cache is None and getattr(output, "past_key_values", None) is not None:
            self._keep(output.past_key_values, other.past_key_values)
        with_it, without = output.logits.float(), other.logits.float()
        marked = (self.marks.mask > 0).any(1).repeat_interleave(times).to(with_it.device)
        new = torch.where(marked[:, None, None], self.combine(with_it, without), with_it)
        output.logits = new.to(output.logits.dtype)
        return output

    def _inputs(self, given: Arguments, start: int, times: int) -> Arguments:
        """The arguments of the second pass, but for its cache."""
        tokens, mask, positions = given_tokens(given), given.get("attention_mask"), given.get("position_ids")
        total = start + tokens.shape[1]
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == total):
            raise UnsupportedModelError(
                "contrastive decoding needs a padding mask [batch, tokens], and a static cache brings another kind. Use a "
                "dynamic cache"
            )
        if positions is not None and positions.ndim != 2:
            raise UnsupportedModelError("contrastive decoding does not know positions of several axes, as of images")
        kept = (self.marks.mask == 0).repeat_interleave(times, 0).to(tokens.device)
        if start < self.marks.length <= total:
            real = kept.new_ones(kept.shape) if mask is None else mask[:, : self.marks.length] != 0
            last = (real * torch.arange(1, kept.shape[1] + 1, device=kept.device)).argmax(1)
            if not bool(kept.gather(1, last[:, None]).all()):
                raise SteeringError(
                    "the last token of a prompt is highlighted, so nothing is left to answer from without the highlights"
                )
        kept = functional.pad(kept, (0, max(0, total - kept.shape[1])), value=True)[:, :total].long()
        kept = kept if mask is None else kept * (mask != 0)
        length = tokens.shape[1]
        return {**given, "attention_mask": kept, "position_ids": (kept.cumsum(-1) - 1).clamp_min(0)[:, -length:]}

    def _cache(self, cache: Cache, start: int) -> Cache:
        """The second cache of a cache; of one that was filled before, without highlights, a copy."""
        if cache not in self._second:
            if bool((self.marks.columns < start).any()):
                raise SteeringError(
                    "highlighted tokens are in the cache already, so nothing is known without them: highlight what follows"
                )
            self._keep(cache, copy.deepcopy(cache))
        return self._second[cache]

    def _keep(self, cache: Any, second: Cache) -> None:
        self._second[cache] = second
        cache.reorder_cache = partial(_reorder, cache, second)

    def close(self) -> None:
        """Leave the caches as they were found."""
        for cache in self._second:
            vars(cache).pop("reorder_cache", None)


def _reorder(cache: Cache, second: Cache, order: Tensor) -> None:
    """In front of a cache's ``reorder_cache``, by which beams change places."""
    for each in (cache, second):
        type(each).reorder_cache(each, order)


_open: ContextVar[tuple[tuple[nn.Module, _Contrast], ...]] = ContextVar("seka_contrasting", default=())


def _at_model(model: nn.Module, *args: object, logits_to_keep: Any = 0, **kwargs: object) -> Any:
    """Named like that of ``forward``, since ``generate`` looks for it, and else asks for the logits of all tokens."""
    forward: Callable[..., Any] = original(model)
    if "logits_to_keep" in parameters_of(model):
        kwargs["logits_to_keep"] = logits_to_keep
    contrasts = [contrast for owner, contrast in _open.get() if owner is model]
    if not contrasts:
        return forward(*args, **kwargs)
    return contrasts[-1].run(forward, by_name(model, args, kwargs))
