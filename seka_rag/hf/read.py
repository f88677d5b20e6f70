"""Keys, values and queries of chosen tokens, for no more work than they take."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor, nn

from seka_rag.hf.sites import KeySites
from seka_rag.hf.taps import Tap, tapped


class _Complete(Exception):  # noqa: N818 (it is no error)
    """Ends a forward pass: what was wanted of it is known."""


def read_keys(
    sites: KeySites, input_ids: Tensor, rows: Tensor, columns: Tensor, *, values: bool = False
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """The keys of named tokens in every layer, and if asked for their values, at the place where they are edited.

    The pass ends at the last layer's keys and values: what that layer computes of them, and the logits, are never computed.
    There is no attention mask, so a shorter row stands at the start of its row, and what pads it is not to be named.

    Args:
        input_ids: ``[B, T]``, on the model's device.
        rows, columns: ``[n]`` indices of the tokens.

    Returns:
        Layer -> keys ``[n, H, D]``; layer -> values, none if they are not asked for.
    """
    found: tuple[dict[int, Tensor], dict[int, Tensor]] = {}, {}
    wanted = len(sites.modules) + (len(sites.value_modules) if values else 0)
    rows, columns = rows.to(input_ids.device), columns.to(input_ids.device)

    def record(place: dict[int, Tensor], read: Callable[[Tensor], Tensor], layer: int, output: Tensor) -> None:
        heads = read(output).detach()
        place[layer] = heads[rows.to(heads.device), columns.to(heads.device)]
        if len(found[0]) + len(found[1]) == wanted:
            raise _Complete

    taps: list[tuple[nn.Module, Tap]] = [
        (m, partial(record, found[0], sites.read, i)) for i, m in sites.modules.items()
    ]
    if values:
        taps += [(m, partial(record, found[1], sites.read_value, i)) for i, m in sites.value_modules.items()]
    with tapped(sites.decoder, lambda _: taps), suppress(_Complete):
        sites.decoder(input_ids=input_ids, use_cache=False)
    return found


def read_last_queries(sites: KeySites, input_ids: Tensor, last: Tensor) -> dict[int, Tensor]:
    """The queries of one token of each row in every layer, after their norm and before rotary positions.

    As ``read_keys``: rows stand at the start, and the pass ends at the last layer's queries.

    Args:
        input_ids: ``[B, T]``, on the model's device.
        last: ``[B]`` the index of the token.

    Returns:
        Layer -> ``[B, Q, D]`` of Q query heads.
    """
    queries: dict[int, Tensor] = {}
    rows = torch.arange(len(input_ids), device=input_ids.device)

    def record(layer: int, output: Tensor) -> None:
        found = sites.read_query(output).detach()
        queries[layer] = found[rows.to(found.device), last.to(found.device)]
        if len(queries) == len(sites.query_modules):
            raise _Complete

    with tapped(sites.decoder, lambda _: [(module, partial(record, i)) for i, module in sites.query_modules.items()]):
        with suppress(_Complete):
            sites.decoder(input_ids=input_ids, use_cache=False)
    return queries
