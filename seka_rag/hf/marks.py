"""The highlighted tokens of a batch, the part of them that a forward pass holds, and a record of those edited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from seka_rag.errors import SteeringError
from seka_rag.ops.edits import Edit, Part

#: ``[B, T]``, or one row of weights for each of several requests, each as long as its request.
Mask = Tensor | Sequence[Tensor | Sequence[float]]


class Segment(NamedTuple):
    """``length`` tokens of the request of a row, from its position ``start``, which are at ``offset`` in a packed pass."""

    row: int
    start: int
    length: int
    offset: int


class Marks:
    """The highlighted tokens of a padded batch, or of several requests.

    Args:
        mask: ``[B, T]`` bool, or float weights with 0 for no highlight; T is the whole prompt, padding included. Or a list
            of rows, each as long as its request.

    Attributes:
        mask: ``[B, T]``, padded with 0 where rows differ in length, on the CPU.
        lengths: of the rows.
        length: T, the longest of them.
    """

    def __init__(self, mask: Mask) -> None:
        if isinstance(mask, Tensor):
            if mask.ndim != 2:
                raise SteeringError(f"the mask must be [batch, tokens], not {list(mask.shape)}")
            mask = mask.detach().cpu()
            self.lengths = (mask.shape[1],) * mask.shape[0]
        else:
            rows = [torch.as_tensor(row).detach().cpu().float() for row in mask]
            if not rows or any(row.ndim != 1 for row in rows):
                raise SteeringError("a mask that is a list must hold one row of weights for each prompt")
            self.lengths = tuple(len(row) for row in rows)
            mask = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if not mask.float().isfinite().all():
            raise SteeringError("the mask holds weights that are not finite")
        if (mask < 0).any():
            raise SteeringError("the mask holds negative weights; to turn attention away use a negative gain")
        self.mask = mask
        self.batch, self.length = mask.shape
        self.rows, self.columns = mask.nonzero(as_tuple=True)
        self.weights = mask[self.rows, self.columns].float()
        self._windows: dict[tuple[int, int, int], Part] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def window(self, start: int, length: int, batch: int) -> Part:
        """The highlights in positions ``[start, start + length)`` of all rows; columns count from ``start``.

        ``batch`` may be a multiple of B: beams and several returned sequences repeat each row in place.
        """
        key = (start, length, batch)
        if key not in self._windows:
            with torch.inference_mode(False):  # a later pass may want gradients
                self._windows[key] = self._cut(*key)
        return self._windows[key]

    def _cut(self, start: int, length: int, batch: int) -> Part:
        if batch % self.batch:
            raise SteeringError(
                f"a forward pass of {batch} rows while steering a batch of {self.batch}: rows cannot be matched"
            )
        if len(set(self.lengths)) > 1:
            raise SteeringError(
                f"the rows of the mask have different lengths ({min(self.lengths)} to {self.length}), which only continuous "
                "batching takes (generate_batch). For generate and forward give a mask [batch, tokens], padded as the prompts"
            )
        inside, times = self._between(start, length), batch // self.batch
        owners = self.rows[inside].repeat_interleave(times)
        rows = (self.rows[inside][:, None] * times + torch.arange(times)).flatten()
        columns = (self.columns[inside] - start).repeat_interleave(times)
        return Part(inside, rows, columns, self.weights[inside].repeat_interleave(times), owners)

    def packed(self, segments: Sequence[Segment]) -> Part:
        """The highlights in a pass ``[1, T]`` that holds pieces of several rows one after another."""
        here = [(self.rows == s.row) & self._between(s.start, s.length) for s in segments]
        found = torch.cat([h.nonzero()[:, 0] for h in here]) if here else torch.empty(0, dtype=torch.long)
        shift = torch.tensor([s.offset - s.start for s in segments], dtype=torch.long)
        counts = torch.tensor([int(h.sum()) for h in here], dtype=torch.long)
        inside = torch.zeros(len(self), dtype=torch.bool)
        inside[found] = True
        columns, owners = self.columns[found] + shift.repeat_interleave(counts), self.rows[found]
        distances = torch.tensor(self.lengths)[owners] - 1 - self.columns[found]
        return Part(inside, torch.zeros_like(found), columns, self.weights[found], owners, distances)

    def _between(self, start: int, length: int) -> Tensor:
        return (self.columns >= start) & (self.columns < start + length)


@dataclass
class Tally:
    """What was really edited.

    Attributes:
        seen: positions at which forward passes over the prompt began.
        done: layer -> which of the highlighted tokens had their keys edited in it, bool ``[n]``, pass by pass.
        values: the same of values.
        capped: which changes an edit shortened, bool ``[h, k]``, pass by pass and layer by layer.
        states: layer -> what its edit read from the queries ``[B, h, ...]``.
    """

    seen: list[int] = field(default_factory=list)
    done: dict[int, list[Tensor]] = field(default_factory=dict)
    values: dict[int, list[Tensor]] = field(default_factory=dict)
    capped: list[Tensor] = field(default_factory=list)
    states: dict[int, Tensor] = field(default_factory=dict)

    def edited(self, marks: Marks, edits: Mapping[int, Edit]) -> int:
        """How many of the marked tokens were edited in all that the edits of all layers are to change."""
        passes = [self.done.get(layer, ()) for layer in edits]
        passes += [self.values.get(layer, ()) for layer, edit in edits.items() if edit.of_values is not None]
        return _in_all(marks, passes)

    def held(self, marks: Marks, layers: Iterable[int]) -> int:
        """How many of the marked tokens were in passes of all these layers."""
        return _in_all(marks, [self.done.get(layer, ()) for layer in layers])


def _in_all(marks: Marks, passes: Sequence[Sequence[Tensor]]) -> int:
    none = torch.zeros(len(marks), dtype=torch.bool)
    return int(torch.stack([torch.stack([none, *some]).any(0) for some in passes]).all(0).sum())
