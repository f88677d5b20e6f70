"""What is done at the key and query sites, in a ``with``: edit keys by position, or record them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seka_rag.errors import SteeringError
from seka_rag.hf.marks import Marks, Part, Tally
from seka_rag.hf.paged import Requests, following
from seka_rag.hf.sites import KeySites
from seka_rag.hf.taps import Tap, tapped
from seka_rag.hf.window import Windows, check_gradients
from seka_rag.ops.keys import edit_keys
from seka_rag.ops.projection import KeyEdit
from seka_rag.ops.routing import RoutedEdit, edit_keys_routed, unit_queries

LayerEdit = KeyEdit | RoutedEdit


@contextmanager
def editing(
    sites: KeySites,
    marks: Marks,
    edits: Mapping[int, LayerEdit],
    routing: Mapping[int, Tensor] | None = None,
    model: nn.Module | None = None,
) -> Iterator[Tally]:
    """Edit the keys of marked tokens in every forward pass inside the ``with``.

    Args:
        sites: where the model's keys are.
        marks: which tokens of the prompt.
        edits: layer -> edit. A routed edit takes its weights from the query of the row's last prompt token, which the
            same layer computes before its keys are used.
        routing: layer -> weights of the experts ``[B, h, M]``, if they are known already.
        model: the whole model, if its continuous batching is to be steered.

    Yields:
        The tally of what was edited, complete when the block ends.

    Raises:
        SteeringError: an edit of a layer that has no key site.
    """
    without = sorted(set(edits) - set(sites.modules))
    if without:
        raise SteeringError(f"layers {without} keep no keys of their own in this model, so they cannot be steered")
    tally, windows = Tally(routing=dict(routing or {})), Windows(marks.length)
    routes = routing is None and any(isinstance(edit, RoutedEdit) for edit in edits.values())
    requests = Requests(marks.lengths, _ROUTING if routes else "")
    split: dict[int, LayerEdit] = {}  # layer -> edit of the heads that this process holds, if it does not hold all

    def edit_of(layer: int, count: int) -> LayerEdit:
        if count == sites.heads:
            return edits[layer]
        if layer not in split:
            split[layer] = edits[layer].of_heads(sites.held(count))
        return split[layer]

    def after_query(layer: int, last: Tensor | None, output: Tensor) -> None:
        if last is None:
            raise SteeringError(
                f"the prompt of {marks.length} tokens comes in chunks, and the query that chooses the experts in a "
                "later one than the highlights. Prefill in one piece, or use AdaSeka(two_pass=True)"
            )
        queries = sites.read_query(output)
        count = sites.owners(queries.shape[2])
        edit: Any = edit_of(layer, count).to(queries.device)
        tally.routing[layer] = edit.route(unit_queries(queries, last, edit.heads, queries.shape[2] // count))

    def after_key(layer: int, part: Part, output: Tensor) -> Tensor:
        keys = sites.read(output)
        part, edit = part.to(keys.device), edit_of(layer, keys.shape[2]).to(keys.device)
        tally.done.setdefault(layer, []).append(part.inside)
        chosen = (part.rows, part.columns, part.weights)
        if isinstance(edit, KeyEdit):
            return sites.write(output, edit_keys(keys, *chosen, edit))
        alpha = tally.routing[layer].to(keys.device)  # of the mask's rows if it was given, else of the rows in the pass
        return sites.write(output, edit_keys_routed(keys, *chosen, edit, alpha[part.rows if routes else part.owners]))

    def enter(arguments: dict[str, Any]) -> Iterator[tuple[nn.Module, Tap]]:
        last = None
        if arguments.get("cache") is not None:
            segments = requests.segments(arguments)
            if not segments:
                return  # decoding: nothing to do, nothing computed
            tally.seen.extend(s.start for s in segments)
            part = marks.packed(segments)
        else:
            window = windows.read(arguments)
            if window is None:
                return  # likewise
            tally.seen.append(window[0])
            part = marks.window(*window, len(_given(arguments)))
            last = _last_tokens(arguments, window, marks.length) if routes else None
        if not part.inside.any():
            return
        check_gradients(sites.decoder)
        for layer, edit in edits.items():
            if routes and isinstance(edit, RoutedEdit):  # before the keys: they may be in the same output
                yield sites.query_modules[layer], partial(after_query, layer, last)
            yield sites.modules[layer], partial(after_key, layer, part)

    with ExitStack() as stack:
        stack.enter_context(tapped(sites.decoder, enter))
        if model is not None:
            stack.enter_context(following(model, requests))
        yield tally


_ROUTING = (
    "a request may be prefilled in pieces, the last of which holds the query that chooses its experts. Give the weights of "
    "an earlier pass: steer(..., routing=route(...))"
)


def _given(arguments: dict[str, Any]) -> Tensor:
    ids = arguments.get("input_ids")
    return arguments["inputs_embeds"] if ids is None else ids


def _last_tokens(arguments: dict[str, Any], window: tuple[int, int], length: int) -> Tensor | None:
    """Where each row's last prompt token is in this forward pass, ``[B]``; None if the pass ends before it.

    A padding mask says so; without one, or with a mask that is already expanded (``generate`` then pads on the left),
    it is the last position of the prompt.
    """
    given, mask, start = _given(arguments), arguments.get("attention_mask"), window[0]
    if sum(window) < length:
        return None
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return _last_real(mask[:, start:length].to(given.device))
    return torch.full((len(given),), length - 1 - start, device=given.device)


def _last_real(mask: Tensor) -> Tensor:
    return ((mask != 0) * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(-1)


@contextmanager
def last_queries(sites: KeySites, attention_mask: Tensor, layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Record the query of each row's last token in the forward pass inside, averaged over its group: ``[B, H, D]``.

    Args:
        attention_mask: ``[B, T]`` of the pass.
        layers: which layers.
    """
    queries: dict[int, Tensor] = {}
    last = _last_real(attention_mask)

    def record(layer: int, output: Tensor) -> None:
        q = sites.read_query(output)
        count = sites.owners(q.shape[2])
        heads = torch.arange(count, device=q.device)
        queries[layer] = unit_queries(q, last.to(q.device), heads, q.shape[2] // count)

    with tapped(sites.decoder, lambda _: [(sites.query_modules[i], partial(record, i)) for i in layers]):
        yield queries


@contextmanager
def recording(sites: KeySites) -> Iterator[dict[int, Tensor]]:
    """Record each layer's keys ``[B, T, H, D]`` of the latest forward pass, at the place where they are edited.

    Inside a steered block it sees edited keys, around one those before the edit.
    """
    keys: dict[int, Tensor] = {}

    def record(layer: int, output: Tensor) -> None:
        keys[layer] = sites.read(output).detach()

    with tapped(sites.decoder, lambda _: [(module, partial(record, i)) for i, module in sites.modules.items()]):
        yield keys
