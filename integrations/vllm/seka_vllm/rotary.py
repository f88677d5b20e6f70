"""Where keys are edited: in front of the rotary positions of each steered layer, for the tokens of one step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seka_rag.ops.edits import Edit, Part, last_queries
from seka_rag.ops.shapes import unflatten

#: ``(bank, first row, end row, weight)`` in one step of the engine, whose rows are the tokens of all its requests.
Rows = Iterable[tuple[int, int, int, float]]


class Gates:
    """Which tokens of the step that runs now are edited, and how strongly; all layers share it.

    Where vLLM compiles the model or records graphs, every step computes the same for all rows, with weight 0 for those that
    are not edited, whose keys stay as they are, bit for bit. Otherwise only the edited rows are touched.

    Attributes:
        fixed: whether every step must compute the same.
        weights: ``[banks, rows]``, at an address that does not change.
        busy: whether anything is edited in this step.
        seen: ``(bank, layer)`` for which keys were edited since it was last emptied; not known if the model is compiled.
        probes: request -> bank whose experts it asks for, and the row of its prompt's last token, in this step.
        found: request -> layer -> weights of the experts ``[h, M]``, of the probes of this step.
    """

    def __init__(self, banks: int, rows: int, device: torch.device, *, fixed: bool) -> None:
        self.fixed, self.device = fixed, device
        self.weights = torch.zeros(banks, rows, device=device)
        self._written = torch.zeros(banks, rows, pin_memory=device.type == "cuda")
        self._every = torch.arange(rows, device=device)
        self._parts: list[Part | None] = [None] * banks
        self._used = 0
        self._routed: list[tuple[int, int, Mapping[int, Tensor]]] = []
        self.probes: Mapping[str, tuple[int, int]] = {}
        self.found: dict[str, dict[int, Tensor]] = {}
        self.busy = False
        self.seen: set[tuple[int, int]] = set()

    def fill(self, rows: Rows, count: int, routings: Sequence[Mapping[int, Tensor] | None] = ()) -> None:
        """Begin a step of so many rows.

        Args:
            routings: for each of ``rows``, which then are in order, layer -> weights of its bank's experts ``[h, M]``; None
                for a bank without experts.
        """
        rows = list(rows)
        self._routed = [
            (bank, end - first, routing)
            for (bank, first, end, weight), routing in zip(rows, routings, strict=False)
            if routing is not None and weight  # as a part leaves out what has weight 0
        ]
        if not rows and not self.busy:
            return
        self.busy = bool(rows)
        self._written[:, : max(count, self._used)] = 0
        for bank, first, end, weight in rows:
            self._written[bank, first:end] = weight
        if self.fixed:
            both = max(count, self._used)
            self.weights[:, :both].copy_(self._written[:, :both], non_blocking=True)
        else:
            self._parts = [self._part(written[:count]) for written in self._written]
        self._used = count

    def _part(self, weights: Tensor) -> Part | None:
        columns = weights.nonzero()[:, 0]
        return _part(columns, weights[columns]).to(self.device) if len(columns) else None

    def part(self, bank: int, count: int) -> Part | None:
        """What a bank edits in this step; None for nothing."""
        if self.fixed:
            return _part(self._every[:count], self.weights[bank, :count])
        return self._parts[bank]

    def state(self, bank: int, layer: int) -> Tensor:
        """What a routed edit needs for each token of its part: ``[k, h, M]``."""
        of_rows = [routing[layer].expand(n, -1, -1) for number, n, routing in self._routed if number == bank]
        return torch.cat(of_rows).to(self.device)


def _part(columns: Tensor, weights: Tensor) -> Part:
    row = torch.zeros_like(columns)
    return Part(torch.ones_like(columns, dtype=torch.bool), row, columns, weights, row)


class SteeredRotary(nn.Module):
    """A layer's rotary positions, with the layer's edits of keys in front of them.

    Args:
        rotary: what vLLM has there.
        edits: of the heads that this process holds, by bank; None where a bank leaves the layer alone.
        head_dim: D.
    """

    def __init__(
        self, rotary: nn.Module, layer: int, edits: Sequence[Edit | None], gates: Gates, head_dim: int
    ) -> None:
        super().__init__()
        self.inner, self.layer, self.gates, self.head_dim = rotary, layer, gates, head_dim
        self.edits = [None if edit is None else edit.to(gates.device) for edit in edits]

    def forward(
        self, positions: Tensor, query: Tensor, key: Tensor | None = None, *args: object, **kwargs: object
    ) -> Any:
        if key is not None and self.gates.probes:
            self.probe(query, key.shape[-1] // self.head_dim)
        if key is not None and (self.gates.fixed or self.gates.busy):
            key = self.steered(key)
        return self.inner(positions, query, key, *args, **kwargs)

    def probe(self, query: Tensor, heads: int) -> None:
        """Read from queries ``[rows, Q D]`` how the last tokens of prompts weigh the experts of this layer."""
        queries = unflatten(query, -1, (-1, self.head_dim))
        for request, (bank, row) in self.gates.probes.items():
            edit = self.edits[bank]
            if edit is not None:
                last = last_queries(queries[None], torch.tensor([row]), queries.shape[1] // heads)
                self.gates.found.setdefault(request, {})[self.layer] = edit.read_query(last[:, edit.heads])[0].cpu()

    def steered(self, key: Tensor) -> Tensor:
        """Keys ``[rows, H D]`` with those of highlighted tokens edited; a new tensor."""
        keys = unflatten(key, -1, (-1, self.head_dim))[None]
        for bank, edit in enumerate(self.edits):
            part = None if edit is None else self.gates.part(bank, len(key))
            if edit is not None and part is not None:
                state = self.gates.state(bank, self.layer) if edit.needs_query else None
                keys = edit.apply(keys, part, state)
                if not torch.compiler.is_compiling():
                    self.gates.seen.add((bank, self.layer))
        return keys.reshape(key.shape)
