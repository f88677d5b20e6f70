"""Which tokens a forward pass of a decoder holds: known from its cache, never guessed from shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from seka_rag.errors import SteeringError, UnsupportedModelError
from seka_rag.hf.taps import bound_to, original, replaced
from seka_rag.hf.types import Arguments, Cache


class Windows:
    """Reads the window of each forward pass over one prompt (which several caches may hold) and what follows it.

    Args:
        length: T, tokens of the prompt, padding and cached prefix included.

    Attributes:
        guesses: whether the pass that ends the prompt may go on behind it, with the guesses of assisted decoding.
    """

    def __init__(self, length: int) -> None:
        self.length, self.guesses = length, False
        self._complete = False  # the whole prompt was seen
        self._over: WeakSet[Cache] = WeakSet()  # static caches that hold the whole prompt

    def read(self, arguments: Arguments) -> tuple[int, int] | None:
        """Start and length of the window, or None if it lies after the prompt.

        Args:
            arguments: those of the decoder's forward pass, by name.

        Raises:
            SteeringError: the pass has neither ``input_ids`` nor ``inputs_embeds``; it goes beyond the prompt in one piece,
                other than with the guesses of assisted decoding; or it begins another, shorter sequence after the prompt (as
                the unconditional half of classifier-free guidance does).
            UnsupportedModelError: its cache does not say how many tokens it holds.
        """
        given = arguments.get("input_ids")
        given = arguments.get("inputs_embeds") if given is None else given
        if given is None:
            raise SteeringError("a forward pass without input_ids or inputs_embeds: its positions are not known")
        past, length = arguments.get("past_key_values"), int(given.shape[1])
        if not (past is None or hasattr(past, "get_seq_length")):
            raise UnsupportedModelError(
                f"a forward pass with a {type(past).__name__} as its cache, which does not say how many tokens it holds: it "
                "cannot be steered. Use a cache of transformers"
            )
        start = 0 if past is None else past.get_seq_length()
        if isinstance(start, Tensor):  # a static cache; reading it makes the host wait for the device
            if length == 1 and past in self._over:
                return None
            start = int(start)
        if start == 0 and length < self.length and self._complete:
            raise SteeringError(
                f"after the prompt of {self.length} tokens a sequence of {length} began in the same `with`, and the mask "
                "is not for it. Open one `with` for each prompt; classifier-free guidance (guidance_scale) cannot be steered"
            )
        if not self._complete and start < self.length < start + length and not self.guesses:
            raise SteeringError(
                f"a forward pass over positions {start} to {start + length} and a mask of {self.length}: positions count from "
                "the first token, so a mask without the padding in front, or without special tokens, marks other tokens. "
                "The mask must be as wide as the padded prompt; where more tokens follow in one pass, add zeros for them"
            )
        if start + length >= self.length:
            self._complete = True
            if past is not None:
                self._over.add(past)  # a static cache that is empty says 0, not a tensor
        return (start, length) if start < self.length else None


_expecting: ContextVar[tuple[tuple[nn.Module, Windows], ...]] = ContextVar("seka_expecting", default=())


@contextmanager
def expecting_guesses(model: nn.Module, windows: Windows) -> Iterator[None]:
    """Set ``windows.guesses`` when assisted decoding or prompt lookup of the model begins inside the ``with``.

    Both put guesses behind the prompt in one pass, which then looks like a mask that is too short. They make a generator of
    candidates just before that pass, and nothing else does.
    """
    owner = bound_to(model, _CANDIDATES)
    if owner is None:
        yield
        return
    with replaced([owner], _at_candidates, _CANDIDATES):
        _expecting.set((*_expecting.get(), (owner, windows)))
        try:
            yield
        finally:
            _expecting.set(tuple(pair for pair in _expecting.get() if pair[1] is not windows))


_CANDIDATES = "_get_candidate_generator"


def _at_candidates(model: nn.Module, *args: object, **kwargs: object) -> Any:
    for owner, windows in _expecting.get():
        windows.guesses = windows.guesses or owner is model
    return original(model, _CANDIDATES)(*args, **kwargs)


def given_tokens(arguments: Arguments) -> Tensor:
    """Ids ``[B, T]`` or embeddings ``[B, T, hidden]`` that a forward pass was given."""
    ids = arguments.get("input_ids")
    given: Tensor = arguments["inputs_embeds"] if ids is None else ids
    return given


def check_gradients(decoder: nn.Module) -> None:
    """Refuse a pass whose layers are computed again for the gradient, outside the ``with``.

    Raises:
        UnsupportedModelError: gradient checkpointing is on.
    """
    gradients = decoder.training and torch.is_grad_enabled()
    if gradients and any(getattr(module, "gradient_checkpointing", False) for module in decoder.modules()):
        raise UnsupportedModelError(
            "gradient checkpointing computes the layers a second time, without the edits, and gradients would be "
            "wrong. Call model.gradient_checkpointing_disable() before steering a pass with gradients"
        )
