"""The highlighted tokens of a batch, the part of them that a forward pass holds, and a record of those edited."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seka_rag.errors import SteeringError


class Marks:
    """The highlighted tokens of a padded batch.

    Args:
        mask: ``[B, T]`` bool, or float weights with 0 for no highlight; T is the whole prompt, padding included.
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.ndim != 2:
            raise SteeringError(f"the mask must be [batch, tokens], not {list(mask.shape)}")
        mask = mask.detach().cpu()
        if not mask.float().isfinite().all():
            raise SteeringError("the mask holds weights that are not finite")
        if (mask < 0).any():
            raise SteeringError("the mask holds negative weights; to turn attention away use a negative gain")
        self.batch, self.length = mask.shape
        self.rows, self.columns = mask.nonzero(as_tuple=True)
        self.weights = mask[self.rows, self.columns].float()
        self._windows: dict[tuple[int, int, int, torch.device], tuple[Tensor, Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def inside(self, start: int, length: int) -> Tensor:
        """Which highlighted tokens are in positions ``[start, start + length)``: bool ``[n]``."""
        return (self.columns >= start) & (self.columns < start + length)

    def window(self, start: int, length: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and weights ``[n]`` of the highlights in a window, on a device; columns count from its start.

        ``batch`` may be a multiple of B: beams and several returned sequences repeat each row in place.
        """
        key = (start, length, batch, device)
        if key not in self._windows:
            with torch.inference_mode(False):  # a later pass may want gradients
                self._windows[key] = self._cut(*key)
        return self._windows[key]

    def _cut(self, start: int, length: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        if batch % self.batch:
            raise SteeringError(
                f"a forward pass of {batch} rows while steering a batch of {self.batch}: rows cannot be matched"
            )
        inside, times = self.inside(start, length), batch // self.batch
        rows = (self.rows[inside][:, None] * times + torch.arange(times)).flatten()
        columns = (self.columns[inside] - start).repeat_interleave(times)
        weights = self.weights[inside].repeat_interleave(times)
        return rows.to(device), columns.to(device), weights.to(device)


@dataclass
class Tally:
    """What was really edited.

    Attributes:
        seen: start and length of the forward passes over the prompt.
        done: layer -> those of the passes in which its keys were edited.
        routing: layer -> weights of the experts in it ``[B, h, M]``.
    """

    seen: list[tuple[int, int]] = field(default_factory=list)
    done: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    routing: dict[int, Tensor] = field(default_factory=dict)

    def edited(self, marks: Marks, layers: Collection[int]) -> int:
        """How many of the marked tokens were edited in each of the layers."""
        everywhere = torch.ones(len(marks), dtype=torch.bool)
        for layer in layers:
            here = torch.zeros_like(everywhere)
            for start, length in self.done.get(layer, ()):
                here |= marks.inside(start, length)
            everywhere &= here
        return int(everywhere.sum())
