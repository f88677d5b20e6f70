"""Adding to the scores of attention before their softmax, in a ``with``: what methods do that edit no keys.

It is done where the scores are: in the call of ``scaled_dot_product_attention``, or in the softmax of eager attention, of this
thread. Kernels that never show their scores (flash, flex, paged) are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.kernels import SOFTMAX, sdpa_arguments, sdpa_scores
from seka_rag.hf.marks import Marks, Tally
from seka_rag.hf.paged import Requests, following
from seka_rag.hf.sites import KeySites
from seka_rag.hf.taps import Around, tapped
from seka_rag.hf.types import Arguments
from seka_rag.hf.window import Windows, check_gradients, expecting_guesses, given_tokens


@dataclass(frozen=True, eq=False)
class ScoreBias:
    """What is added to the scores of highlighted tokens in one layer.

    Attributes:
        heads: ``[H]`` for each key-value head, whose query heads share it; times the weight of the token.
        target: add at most this much, namely ``log(target / share)`` where the highlighted tokens get a share of attention
            below it, query by query, and nothing elsewhere; None to add it always.
    """

    heads: Tensor
    target: float | None = None

    def of(self, weights: Tensor, count: int, shares: Callable[[], Tensor]) -> Tensor:
        """What is added: ``[B, Q heads, 1 or T, K]``.

        Args:
            weights: ``[B, K]`` of the keys, 0 where nothing is highlighted.
            count: query heads.
            shares: gives attention as it would be, ``[B, Q heads, T, K]``.
        """
        heads = self.heads.to(weights.device).repeat_interleave(count // len(self.heads))[None, :, None, None]
        if self.target is None:
            return heads * weights[:, None, None]
        marked = (weights > 0).float()[:, None, None]
        share = (shares() * marked).sum(-1, keepdim=True)  # [B, Q heads, T, 1]
        wanted = (self.target / share.clamp_min(torch.finfo(share.dtype).tiny)).log().clamp_min(0)
        return torch.minimum(wanted, heads) * (share > 0) * marked


@contextmanager
def biasing(model: nn.Module, sites: KeySites, marks: Marks, biases: Mapping[int, ScoreBias]) -> Iterator[Tally]:
    """Add to the scores of marked tokens in every forward pass inside the ``with``, those of decoding included.

    Args:
        biases: layer -> what is added there.

    Yields:
        The tally of highlighted tokens that passes over the prompt held, layer by layer.

    Raises:
        UnsupportedModelError: heads that are split among processes, or inside: attention that does not show its scores,
            gradient checkpointing, continuous batching.
    """
    if sites.shard[1] > 1:
        raise UnsupportedModelError("attention scores of heads that are split among processes cannot be changed")
    tally, windows = Tally(), Windows(marks.length)
    parent, blocks = sites.layout.key.path.rpartition(".")[0], sites.decoder.get_submodule(sites.layout.blocks)
    modules = {layer: blocks.get_submodule(f"{layer}.{parent}".rstrip(".")) for layer in biases}

    def enter(arguments: Arguments) -> Iterator[tuple[nn.Module, Around]]:
        window, given = windows.read(arguments), given_tokens(arguments)
        check_gradients(sites.decoder)
        if window is not None:
            part = marks.window(*window, len(given))
            tally.seen.append(window[0])
            for layer in biases:
                tally.done.setdefault(layer, []).append(part.inside)
        past = arguments.get("past_key_values")
        total = given.shape[1] + (0 if past is None else int(past.get_seq_length()))
        weights = marks.mask.float().repeat_interleave(len(given) // marks.batch, 0)
        for layer, module in modules.items():
            yield module, Around(partial(_checked, sites, layer, biases[layer], weights, total))

    with ExitStack() as stack:
        stack.enter_context(tapped(sites.decoder, enter))
        stack.enter_context(following(model, Requests(marks.lengths, _IN_BLOCKS)))
        stack.enter_context(expecting_guesses(model, windows))
        yield tally


_IN_BLOCKS = (
    "continuous batching computes attention in kernels that do not show their scores, so nothing can be added to them. Use a "
    "method that edits keys, such as KeyBias"
)


@contextmanager
def _checked(sites: KeySites, layer: int, bias: ScoreBias, weights: Tensor, total: int) -> Iterator[None]:
    with _Scores(bias, weights, total) as scores:
        yield
    if not scores.changed:
        raise UnsupportedModelError(
            f"attention of layer {layer} of this {sites.model_type} model does not show its scores (flash attention?), so "
            'nothing can be added to them. Load it with attn_implementation="sdpa" or "eager", or use a method that edits '
            "keys, such as KeyBias"
        )


class _Scores(TorchFunctionMode):
    """Changes the scores of one attention of this thread.

    Args:
        weights: ``[B, T]`` of the prompt.
        total: tokens up to the end of this pass; the keys are the last of them, or begin with the first.
    """

    def __init__(self, bias: ScoreBias, weights: Tensor, total: int) -> None:
        super().__init__()
        self.bias, self.weights, self.total, self.changed = bias, weights, total, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Arguments | None = None
    ) -> Any:
        named = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            self.changed += 1
            return func(**self._masked(sdpa_arguments(args, named)))
        if func in SOFTMAX and args and args[0].ndim == 4:
            self.changed += 1
            scores = args[0]
            added = self._added(scores, scores.shape[1], scores.shape[-1], lambda: scores.float().softmax(-1))
            return func(scores + added.to(scores.dtype), *args[1:], **named)
        return func(*args, **named)

    def _masked(self, given: Arguments) -> Arguments:
        """The arguments of ``scaled_dot_product_attention`` with a float mask that holds what is added."""
        query, key = given["query"], given["key"]
        mask: Tensor | None = given.get("attn_mask")
        length, keys = query.shape[-2], key.shape[-2]
        if given.get("is_causal"):
            mask = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril()
        if mask is None:
            mask = query.new_zeros(length, keys)
        elif mask.dtype == torch.bool:
            mask = query.new_zeros(mask.shape).masked_fill(~mask, torch.finfo(query.dtype).min)

        def shares() -> Tensor:
            return (sdpa_scores(query.float(), key.float(), given.get("scale")) + mask.float()).softmax(-1)

        added = self._added(query, query.shape[1], keys, shares).to(query.dtype)
        return {**given, "attn_mask": mask + added, "is_causal": False}

    def _added(self, like: Tensor, count: int, keys: int, shares: Callable[[], Tensor]) -> Tensor:
        kept = self.weights[:, max(0, self.total - keys) :][:, :keys]  # a sliding window has dropped the first ones
        weights = functional.pad(kept, (0, keys - kept.shape[1])).to(like.device)
        return self.bias.of(weights, count, shares)
