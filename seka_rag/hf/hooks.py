"""What is done at the sites of keys, queries and values, in a ``with``: edit by position, or record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from seka_rag.errors import SteeringError, UnsupportedModelError
from seka_rag.hf.marks import Marks, Tally
from seka_rag.hf.paged import Requests, following
from seka_rag.hf.sites import KeySites
from seka_rag.hf.taps import Tap, tapped
from seka_rag.hf.types import Arguments
from seka_rag.hf.window import Windows, check_gradients, expecting_guesses, given_tokens
from seka_rag.ops.edits import Edit, Part
from seka_rag.ops.edits import last_queries as queries_at


class Reversal(Protocol):
    """What puts original keys back after the prompt (``fading``): it is told of every pass inside ``editing``.

    Attributes:
        refused: why it cannot be done with continuous batching.
    """

    refused: str

    def begin(self, arguments: Arguments, window: tuple[int, int], guesses: bool) -> None:
        """A pass over some of the prompt begins, with guesses for the answer or without."""

    def keep(self, layer: int, part: Part, keys: Tensor, heads: Tensor, arguments: Arguments) -> None:
        """The keys of a layer, before they are edited."""

    def keep_values(self, layer: int, part: Part, values: Tensor, heads: Tensor, arguments: Arguments) -> None:
        """Its values, before they are edited."""

    def step(self, arguments: Arguments) -> None:
        """A pass after the prompt begins."""

    def close(self) -> None:
        """The block ends."""


@contextmanager
def editing(
    sites: KeySites,
    marks: Marks,
    edits: Mapping[int, Edit],
    states: Mapping[int, Tensor] | None = None,
    model: nn.Module | None = None,
    fading: Reversal | None = None,
) -> Iterator[Tally]:
    """Edit the keys, and with some edits the values, of marked tokens in every forward pass inside the ``with``.

    Args:
        sites: where the model's keys are.
        marks: which tokens of the prompt.
        edits: layer -> edit. One that needs it reads the query of the row's last prompt token, which the same layer
            computes before its keys are used.
        states: layer -> what the edits read from queries ``[B, h, ...]``, if it is known already (``reading_queries``).
        model: the whole model, if its continuous batching is to be steered.
        fading: puts the original keys back later; None if the edits stay.

    Yields:
        The tally of what was edited, complete when the block ends.

    Raises:
        SteeringError: an edit of a layer that has no key site.
        UnsupportedModelError: an edit of values, and where this model has them is not known.
    """
    without = sorted(set(edits) - set(sites.modules))
    if without:
        raise SteeringError(f"layers {without} keep no keys of their own in this model, so they cannot be steered")
    if not sites.value_modules and any(edit.of_values is not None for edit in edits.values()):
        raise UnsupportedModelError(
            f"where a {sites.model_type} model has the values that it caches is not known, so they cannot be edited: edit "
            "keys alone"
        )
    tally, windows = Tally(states=dict(states or {})), Windows(marks.length)
    reads = states is None and any(edit.needs_query for edit in edits.values())
    far = any(edit.needs_distance for edit in edits.values())
    requests = Requests(marks.lengths, fading.refused if fading else _QUERY_IN_PIECES if reads else "")
    split: dict[int, Edit] = {}  # layer -> edit of the heads that this process holds, if it does not hold all

    def edit_of(layer: int, count: int) -> Edit:
        if count == sites.heads:
            return edits[layer]
        if layer not in split:
            split[layer] = edits[layer].of_heads(sites.present(count))
        return split[layer]

    def after_query(layer: int, last: Tensor | None, output: Tensor) -> None:
        if last is None:
            raise SteeringError(
                f"the prompt of {marks.length} tokens comes in chunks, and the query that its highlights need in a later "
                "one than the highlights. Prefill in one piece, or use the method's two_pass=True, if it has it"
            )
        queries = sites.read_query(output)
        count = sites.owners(queries.shape[2])
        edit = edit_of(layer, count).to(queries.device)
        tally.states[layer] = edit.read_query(queries_at(queries, last, queries.shape[2] // count)[:, edit.heads])

    def after_key(layer: int, part: Part, arguments: Arguments, output: Tensor) -> Tensor:
        keys = sites.read(output)
        edit = edit_of(layer, keys.shape[2]).to(keys.device)
        if fading is not None:
            fading.keep(layer, part, keys, edit.heads, arguments)
        part = part.to(keys.device)
        tally.done.setdefault(layer, []).append(part.inside)
        state = None
        if edit.needs_query:  # of the mask's rows if it was given, else of the rows in the pass
            state = tally.states[layer].to(keys.device)[part.rows if reads else part.owners]
        return sites.write(output, edit.apply(keys, part, state))

    def after_value(layer: int, part: Part, arguments: Arguments, output: Tensor) -> Tensor:
        values = sites.read_value(output)
        edit = edit_of(layer, values.shape[2]).to(values.device).of_values
        assert edit is not None
        if fading is not None:
            fading.keep_values(layer, part, values, edit.heads, arguments)
        part = part.to(values.device)
        tally.values.setdefault(layer, []).append(part.inside)
        return sites.write_value(output, edit.apply(values, part, None))

    def enter(arguments: Arguments) -> Iterator[tuple[nn.Module, Tap]]:
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
                if fading is not None:
                    fading.step(arguments)
                return  # likewise
            if fading is not None:
                fading.begin(arguments, window, windows.guesses)
            tally.seen.append(window[0])
            part = marks.window(*window, len(given_tokens(arguments)))
            last = _last_tokens(arguments, window, marks.length) if reads or far else None
        if not part.inside.any():
            return
        check_gradients(sites.decoder)
        if far and part.distances is None:
            if last is None:
                raise SteeringError(
                    f"the prompt of {marks.length} tokens comes in chunks, and how far its highlights are from its end is "
                    "needed before the end is there. Prefill in one piece, or use KeyBias(form='constant')"
                )
            part = replace(part, distances=_distances(arguments, part, last))
        part = replace(part, capped=tally.capped)
        for layer, edit in edits.items():
            if reads and edit.needs_query:  # before the keys: they may be in the same output
                yield sites.query_modules[layer], partial(after_query, layer, last)
            yield sites.modules[layer], partial(after_key, layer, part, arguments)
            if edit.of_values is not None:
                yield sites.value_modules[layer], partial(after_value, layer, part, arguments)

    with ExitStack() as stack:
        stack.enter_context(tapped(sites.decoder, enter))
        if fading is not None:
            stack.callback(fading.close)
        if model is not None:
            stack.enter_context(following(model, requests))
            stack.enter_context(expecting_guesses(model, windows))
        yield tally


_QUERY_IN_PIECES = (
    "a request may be prefilled in pieces, the last of which holds the query that its highlights need. Give what an earlier "
    "pass read of it: steer(..., prepared=method.prepare(...)) with two_pass=True, if the method has it"
)


def _last_tokens(arguments: Arguments, window: tuple[int, int], length: int) -> Tensor | None:
    """Where each row's last prompt token is in this forward pass, ``[B]``; None if the pass ends before it.

    A padding mask says so; without one, or with a mask that is already expanded (``generate`` then pads on the left),
    it is the last position of the prompt.
    """
    given, mask, start = given_tokens(arguments), arguments.get("attention_mask"), window[0]
    if sum(window) < length:
        return None
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return _last_real(mask[:, start:length].to(given.device))
    return torch.full((len(given),), length - 1 - start, device=given.device)


def _distances(arguments: Arguments, part: Part, last: Tensor) -> Tensor:
    """How many positions later the last prompt token of its row is than each highlighted token: ``[k]``.

    Raises:
        UnsupportedModelError: positions of several axes (of images).
    """
    rows, columns = part.rows.to(last.device), part.columns.to(last.device)
    positions: Tensor | None = arguments.get("position_ids")
    if positions is None:
        return last[rows] - columns
    if positions.ndim != 2:
        raise UnsupportedModelError(
            "positions of several axes, as of images: the distance of two tokens is not one number. Use "
            "KeyBias(form='constant')"
        )
    if len(positions) == 1:
        positions = positions.expand(len(last), -1)
    return positions[rows, last[rows]] - positions[rows, columns]


def _last_real(mask: Tensor) -> Tensor:
    return ((mask != 0) * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(-1)


@contextmanager
def reading_queries(sites: KeySites, attention_mask: Tensor, edits: Mapping[int, Edit]) -> Iterator[dict[int, Tensor]]:
    """What edits read of the query of each row's last token in the forward pass inside: layer -> ``[B, h, ...]``.

    Args:
        attention_mask: ``[B, T]`` of the pass.
        edits: layer -> edit that needs queries.
    """
    states: dict[int, Tensor] = {}
    last = _last_real(attention_mask)

    def record(layer: int, output: Tensor) -> None:
        q = sites.read_query(output)
        count = sites.owners(q.shape[2])
        edit = edits[layer].of_heads(sites.present(count)).to(q.device)
        states[layer] = edit.read_query(queries_at(q, last.to(q.device), q.shape[2] // count)[:, edit.heads])

    with tapped(sites.decoder, lambda _: [(sites.query_modules[i], partial(record, i)) for i in edits]):
        yield states


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
