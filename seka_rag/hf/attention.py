"""Where attention goes: the weights of the last position of each forward pass, seen while the model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.kernels import SOFTMAX, sdpa_arguments, sdpa_scores
from seka_rag.hf.taps import Tap, tapped
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.hf.types import Arguments


@contextmanager
def seeing_attention(
    hf_model: nn.Module,
    receive: Callable[[Tensor], None],
    *,
    last: int = 1,
    reduce: Callable[[Tensor], Tensor] = lambda weights: weights[:, -1],
) -> Iterator[None]:
    """Call ``receive`` after each forward pass inside the ``with``, in this thread, with the weights of its last position.

    The model runs as ever, by whatever kernel it has. Beside each attention the weights of one position are computed again
    from the queries, keys and mask that go into it; where the kernel is a softmax in Python, they are read off. So steering,
    sliding windows and caches are in them, and the price is small: one row of scores a layer.

    Args:
        receive: gets ``[L, Q, T]``: L layers, Q query heads and the T tokens until then. Rows sum to 1; they are zero in a
            layer without attention (hybrid models). With attention sinks the rest is in the sink.
        last: how many positions at the end are looked at; at most as many as a pass has.
        reduce: makes of a layer's weights ``[Q, last, T]`` what is kept of them; ``receive`` gets that, of all layers.

    Raises:
        UnsupportedModelError: a pass of several rows, or a kernel that does not let its inputs be seen.
    """
    sites = find_key_sites(hf_model)
    layers = list(sites.modules)
    seen = _Weights(last, reduce)

    def enter(arguments: Arguments) -> Iterable[tuple[nn.Module, Tap]]:
        finish()
        ids: Tensor | None = arguments.get("input_ids")
        ids = arguments["inputs_embeds"] if ids is None else ids
        if len(ids) > 1:
            raise UnsupportedModelError(f"a pass of {len(ids)} rows: attention is seen for one prompt at a time")
        cache = arguments.get("past_key_values")
        seen.begin(ids.shape[1], ids.shape[1] + (0 if cache is None else int(cache.get_seq_length())))
        return ()

    def finish() -> None:
        rows, length = seen.end()
        if length is None:
            return
        places = range(sites.layers) if len(rows) == sites.layers else layers
        if len(rows) != len(places):
            raise UnsupportedModelError(
                f"{len(rows)} attentions were seen in a {sites.model_type} model with {len(layers)} layers of keys: its "
                "kernel does not let them be seen. Load the model with attn_implementation='sdpa' or 'eager'"
            )
        weights = rows[0].new_zeros(sites.layers, *rows[0].shape)
        weights[list(places)] = torch.stack(rows)
        receive(weights)

    with tapped(sites.decoder, enter), seen:
        yield
        finish()


def last_token_attention(hf_model: nn.Module, prompt: TokenizedPrompt) -> Tensor:
    """Attention weights of the last position in one forward pass: ``[L, Q, T]``, as ``seeing_attention`` gives them."""
    found: list[Tensor] = []
    device = next(hf_model.parameters()).device
    with torch.inference_mode(), seeing_attention(hf_model, found.append):
        hf_model(input_ids=torch.tensor([prompt.ids], device=device), use_cache=False)
    return found[0]


def attention_to(attention: Tensor, prompt: TokenizedPrompt, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """Attention to character ranges of the prompt: ``[..., T]`` -> ``[..., n]``, summed over their tokens."""
    offsets = torch.tensor(prompt.offsets)
    start, end = offsets[:, 0], offsets[:, 1]
    sums = [attention[..., (end > start) & (start < last) & (end > first)].sum(-1) for first, last in ranges]
    return torch.stack(sums, -1) if sums else attention.new_zeros(*attention.shape[:-1], 0)


def tokens_in(prompt: TokenizedPrompt, places: Sequence[tuple[int, int, int]], count: int) -> Tensor:
    """Which tokens belong to numbered pieces of the prompt: ``[T, count]``, 1 where one does.

    Args:
        places: ``(number, start, end)`` in characters; a piece may stand in several places.
        count: how many numbers there are.
    """
    offsets = torch.tensor(prompt.offsets)
    start, end = offsets[:, 0], offsets[:, 1]
    members = torch.zeros(len(prompt), count)
    for number, first, last in places:
        members[(end > start) & (start < last) & (end > first), number] = 1.0
    return members


class _Weights(TorchFunctionMode):
    """Sees the weights ``[Q, last, T]`` of the last positions in every attention of a pass, in this thread and in order."""

    def __init__(self, last: int, reduce: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._last, self._reduce = last, reduce
        self._rows: list[Tensor] = []
        self._positions, self._length = 0, None  # type: int, int | None

    def begin(self, positions: int, length: int) -> None:
        """A pass of so many positions, after which there are ``length`` tokens."""
        self._positions, self._length = positions, length

    def end(self) -> tuple[list[Tensor], int | None]:
        """What was seen in the pass, and its length; None if no pass has begun."""
        found = self._rows, self._length
        self._rows, self._length = [], None
        return found

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Arguments | None = None
    ) -> Any:
        named = kwargs or {}
        output = func(*args, **named)
        if self._length is None:
            return output
        if func is functional.scaled_dot_product_attention:
            given = sdpa_arguments(args, named)
            if given["query"].shape[-2] == self._positions:
                query = given["query"][:, :, -self._last :]
                self._keep(_of_last(query, given["key"], given.get("attn_mask"), given.get("scale")))
        elif func in SOFTMAX and output.ndim == 4 and output.shape[0] == 1 and output.shape[-2] == self._positions:
            self._keep(output[0, :, -self._last :].detach())
        return output

    def _keep(self, weights: Tensor) -> None:
        assert self._length is not None
        weights = weights[..., : self._length].float()  # beyond: room of a static cache, or a sink
        if missing := self._length - weights.shape[-1]:  # a cache that holds a sliding window only
            weights = functional.pad(weights, (missing, 0))
        self._rows.append(self._reduce(weights).cpu())


def _of_last(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """The weights ``[Q, n, T]`` of the last n positions, from ``[1, Q, n, D]`` and ``[1, H, T, D]``."""
    scores = sdpa_scores(query[0].detach().float(), key[0].detach().float(), scale)
    n, length = scores.shape[-2:]
    if mask is not None:
        some = mask.expand(*mask.shape[:-3], len(scores), *mask.shape[-2:])[0, :, -n:]
        scores = scores.masked_fill(~some, -torch.inf) if some.dtype == torch.bool else scores + some.float()
    elif n > 1:  # without a mask it is causal
        later = torch.ones(n, length, dtype=torch.bool, device=scores.device).triu(length - n + 1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(-1)
