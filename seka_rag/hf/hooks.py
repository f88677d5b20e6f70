"""Hooks at the key site that live in a ``with``: edit keys by position, or record them.

Which tokens a forward pass holds is known from its cache (how many came before) and never guessed from shapes,
so one prompt may come in one piece, in chunks, or behind a prefix. A hook acts only in the context (thread, task)
that opened its ``with``: two threads on one model never see each other's steering.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from seka_rag.errors import SteeringError
from seka_rag.hf.sites import KeySites
from seka_rag.ops.keys import edit_keys
from seka_rag.ops.projection import KeyEdit
from seka_rag.ops.routing import RoutedEdit, edit_keys_routed, unit_queries

LayerEdit = KeyEdit | RoutedEdit

_active: ContextVar[frozenset[int]] = ContextVar("seka_active", default=frozenset())


class Marks:
    """The highlighted tokens of a padded batch, and the part of them that a forward pass holds.

    Args:
        mask: ``[B, T]`` bool, or float weights with 0 for no highlight; T is the whole prompt, padding included.
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.ndim != 2:
            raise SteeringError(f"the mask must be [batch, tokens], not {list(mask.shape)}")
        mask = mask.detach().cpu()
        if not mask.float().isfinite().all():
            raise SteeringError("the mask holds weights that are not finite")
        self.batch, self.length = mask.shape
        self.rows, self.columns = mask.nonzero(as_tuple=True)
        self.weights = mask[self.rows, self.columns].float()
        self._windows: dict[tuple[int, int, int, torch.device], tuple[Tensor, Tensor, Tensor] | None] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def window(self, start: int, length: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor] | None:
        """Rows, columns and weights ``[n]`` of the highlights in positions ``[start, start + length)``, or None.

        ``batch`` may be a multiple of B: beams and several returned sequences repeat each row in place.
        """
        key = (start, length, batch, device)
        if key not in self._windows:
            self._windows[key] = self._cut(*key)
        return self._windows[key]

    def _cut(self, start: int, length: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor] | None:
        if batch % self.batch:
            raise SteeringError(
                f"a forward pass of {batch} rows while steering a batch of {self.batch}: rows cannot be matched"
            )
        inside = (self.columns >= start) & (self.columns < start + length)
        if not inside.any():
            return None
        times = batch // self.batch
        rows = (self.rows[inside][:, None] * times + torch.arange(times)).flatten()
        columns = (self.columns[inside] - start).repeat_interleave(times)
        weights = self.weights[inside].repeat_interleave(times)
        return rows.to(device), columns.to(device), weights.to(device)


@dataclass
class Tally:
    """What was really edited: position ranges seen, edits a layer, and the weights of experts ``[B, h, M]`` in it."""

    seen: list[tuple[int, int]] = field(default_factory=list)
    layers: dict[int, int] = field(default_factory=dict)
    routing: dict[int, Tensor] = field(default_factory=dict)

    def edited(self, marks: Marks) -> int:
        """How many of the marked tokens lay in a range that was seen."""
        done = torch.zeros(len(marks), dtype=torch.bool)
        for start, end in self.seen:
            done |= (marks.columns >= start) & (marks.columns < end)
        return int(done.sum())


@contextmanager
def _attached(attach: Callable[[Callable[[], bool], ExitStack], None]) -> Iterator[None]:
    """Run with hooks that are removed on any way out, a half-done attachment included."""
    me = id(attach)
    with ExitStack() as stack:
        attach(lambda: me in _active.get(), stack)
        token = _active.set(_active.get() | {me})
        stack.callback(_active.reset, token)
        yield


def _hook(stack: ExitStack, module: nn.Module, hook: Callable[..., Any], *, before: bool = False) -> None:
    handle = module.register_forward_pre_hook(hook, with_kwargs=True) if before else module.register_forward_hook(hook)
    stack.callback(handle.remove)


@contextmanager
def editing(
    sites: KeySites, marks: Marks, edits: Mapping[int, LayerEdit], routing: Mapping[int, Tensor] | None = None
) -> Iterator[Tally]:
    """Edit the keys of marked tokens in every forward pass inside the ``with``.

    Args:
        sites: where the model's keys are.
        marks: which tokens of the prompt.
        edits: layer -> edit. A routed edit takes its weights from the query of the row's last prompt token, which the
            same layer computes before its keys are used.
        routing: layer -> weights of the experts ``[B, h, M]``, if they are known already.

    Yields:
        The tally of what was edited, complete when the block ends.

    Raises:
        SteeringError: an edit of a layer that has no key site.
    """
    without = sorted(set(edits) - set(sites.modules))
    if without:
        raise SteeringError(f"layers {without} keep no keys of their own in this model, so they cannot be steered")
    tally, here = Tally(), {"start": 0, "length": 0}
    placed: dict[int, LayerEdit] = {}
    last: list[Tensor] = []  # of each row, where in this forward pass its last prompt token is

    def place(layer: int, device: torch.device) -> Any:
        if layer not in placed:
            placed[layer] = edits[layer].to(device)
        return placed[layer]

    def before_decoder(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        past = kwargs.get("past_key_values")
        given = kwargs.get("input_ids")
        given = kwargs.get("inputs_embeds") if given is None else given
        given = args[0] if given is None and args else given
        if given is None:
            raise SteeringError("a forward pass without input_ids or inputs_embeds: its positions are not known")
        here["start"] = 0 if past is None else int(past.get_seq_length())
        here["length"] = int(given.shape[1])
        if here["start"] < marks.length:
            tally.seen.append((here["start"], here["start"] + here["length"]))
            last[:] = _last_tokens(given, kwargs.get("attention_mask"), here["start"], marks.length)

    def after_query(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if here["start"] >= marks.length:
                return
            queries = sites.read_query(output)
            if marks.window(here["start"], here["length"], len(queries), queries.device) is None:
                return
            if not last:
                raise SteeringError(
                    f"the prompt of {marks.length} tokens comes in chunks, and the query that chooses the experts in a "
                    "later one than the highlights. Prefill in one piece, or use AdaSeka(two_pass=True)"
                )
            edit = place(layer, queries.device)
            tally.routing[layer] = edit.route(unit_queries(queries, last[0], edit.heads, sites.groups))

        return hook

    def after_site(layer: int) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            if here["start"] >= marks.length:
                return None  # decoding: nothing to do, nothing computed
            keys = sites.read(output)
            window = marks.window(here["start"], here["length"], keys.shape[0], keys.device)
            if window is None:
                return None
            edit = place(layer, keys.device)
            tally.layers[layer] = tally.layers.get(layer, 0) + 1
            if isinstance(edit, KeyEdit):
                return sites.write(output, edit_keys(keys, *window, edit))
            alpha = tally.routing[layer]
            if routing is not None:  # given for the batch, whose rows may be repeated
                alpha = alpha.to(keys.device).repeat_interleave(len(keys) // marks.batch, 0)
            return sites.write(output, edit_keys_routed(keys, *window, edit, alpha))

        return hook

    def attach(mine: Callable[[], bool], stack: ExitStack) -> None:
        def only_mine(hook: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args: hook(*args) if mine() else None

        _hook(stack, sites.decoder, only_mine(before_decoder), before=True)
        for layer, edit in edits.items():
            if routing is None and isinstance(edit, RoutedEdit):  # before the keys: they may be in the same output
                _hook(stack, sites.query_modules[layer], only_mine(after_query(layer)))
            _hook(stack, sites.modules[layer], only_mine(after_site(layer)))

    tally.routing.update(routing or {})
    with _attached(attach):
        yield tally


def _last_tokens(given: Tensor, mask: Any, start: int, length: int) -> list[Tensor]:
    """Where each row's last prompt token is in this forward pass, ``[B]``; empty if the pass ends before it.

    A padding mask says so; without one, or with a mask that is already expanded (``generate`` then pads on the left),
    it is the last position of the prompt.
    """
    if start + given.shape[1] < length:
        return []
    if isinstance(mask, Tensor) and mask.ndim == 2:
        real = mask[:, start:length].to(given.device) != 0
        return [(real * torch.arange(1, real.shape[1] + 1, device=real.device)).argmax(-1)]
    return [torch.full((len(given),), length - 1 - start, device=given.device)]


@contextmanager
def last_queries(sites: KeySites, attention_mask: Tensor, layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Record the query of each row's last token in the forward pass inside, averaged over its group: ``[B, H, D]``.

    Args:
        attention_mask: ``[B, T]`` of the pass.
        layers: which layers.
    """
    queries: dict[int, Tensor] = {}
    last = _last_tokens(attention_mask, attention_mask, 0, attention_mask.shape[1])[0]
    heads = torch.arange(sites.heads)

    def attach(mine: Callable[[], bool], stack: ExitStack) -> None:
        def after_query(layer: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Tensor) -> None:
                if mine():
                    q = sites.read_query(output)
                    queries[layer] = unit_queries(q, last.to(q.device), heads.to(q.device), sites.groups)

            return hook

        for layer in layers:
            _hook(stack, sites.query_modules[layer], after_query(layer))

    with _attached(attach):
        yield queries


@contextmanager
def recording(sites: KeySites) -> Iterator[dict[int, Tensor]]:
    """Record each layer's keys ``[B, T, H, D]`` of the latest forward pass, at the place where they are edited."""
    keys: dict[int, Tensor] = {}

    def attach(mine: Callable[[], bool], stack: ExitStack) -> None:
        def after_site(layer: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Tensor) -> None:
                if mine():
                    keys[layer] = sites.read(output).detach()

            return hook

        for layer, module in sites.modules.items():
            _hook(stack, module, after_site(layer))

    with _attached(attach):
        yield keys
