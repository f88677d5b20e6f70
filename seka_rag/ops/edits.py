"""What the edit of one layer must be able to do, whatever its arithmetic, and the tokens that it edits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from seka_rag.ops.shapes import unflatten

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(eq=False)
class Part:
    """The highlighted tokens that one forward pass holds.

    Attributes:
        inside: which of all highlighted tokens: bool ``[n]``.
        rows, columns: where they are in the pass ``[k]``; k is a multiple where rows are repeated.
        weights: ``[k]`` float32.
        owners: ``[k]`` their rows in the mask.
        distances: ``[k]`` how many tokens later the last token of their prompt stands; None if no edit needs it.
        capped: where an edit that may shorten its changes says which it did shorten: bool ``[h, k]``.
    """

    inside: Tensor
    rows: Tensor
    columns: Tensor
    weights: Tensor
    owners: Tensor
    distances: Tensor | None = None
    capped: list[Tensor] = field(default_factory=list, repr=False)
    _placed: dict[torch.device, Part] = field(default_factory=dict, init=False, repr=False)

    def to(self, device: torch.device) -> Part:
        """The part on a device, where it is copied once."""
        if device not in self._placed:
            with torch.inference_mode(False):  # a later pass may want gradients
                # the host need not wait until a device has its copy; a processor must have it before it reads
                place = partial(Tensor.to, device=device, non_blocking=device.type != "cpu")
                rows, columns, weights, owners = map(place, (self.rows, self.columns, self.weights, self.owners))
                distances = None if self.distances is None else place(self.distances)
                self._placed[device] = Part(self.inside, rows, columns, weights, owners, distances, self.capped)
        return self._placed[device]


@dataclass(frozen=True, eq=False)
class Edit(ABC):
    """How the keys of one layer are edited on some heads. It does not change.

    Attributes:
        heads: the edited key-value heads ``[h]`` (int64).
        needs_query: whether ``apply`` needs what ``read_query`` makes of the query of the row's last prompt token.
    """

    heads: Tensor
    _placed: dict[torch.device, Any] = field(default_factory=dict, init=False, repr=False)

    needs_query: ClassVar[bool] = False

    @property
    def needs_distance(self) -> bool:
        """Whether ``apply`` needs to know how far each token is from the last one of its prompt."""
        return False

    @property
    def of_values(self) -> Edit | None:
        """What is done to the values of the same tokens, likewise; None if they stay."""
        return None

    @abstractmethod
    def apply(self, keys: Tensor, part: Part, state: Tensor | None) -> Tensor:
        """New keys in which only the highlighted tokens and the edited heads differ; all else is a copy, bit for bit.

        There is no host synchronisation: the indices are given.

        Args:
            keys: ``[B, T, H, D]``, after the key norm and before rotary positions.
            part: the highlighted tokens, on the device of the keys.
            state: ``[k, h, ...]`` what ``read_query`` gave for the row of each of the tokens; None if none is needed.

        Returns:
            ``[B, T, H, D]`` in the dtype of ``keys``; the arithmetic is float32.
        """

    def read_query(self, queries: Tensor) -> Tensor:
        """What the edit needs of the queries of each row's last prompt token: ``[B, h, G, D]`` -> ``[B, h, ...]``.

        Args:
            queries: float32, after the query norm and before rotary positions, of the G query heads of each edited head.
        """
        raise NotImplementedError(f"{type(self).__name__} needs no query")

    @abstractmethod
    def of_heads(self, held: range) -> Self:
        """The part of the edit on some of the heads, which are counted from the first of them."""

    def scaled(self, strengths: Tensor) -> Self:
        """The edit with each head's part multiplied by its own number ``[h]``, through which gradients may flow.

        Raises:
            NotImplementedError: this kind of edit has no strength by head.
        """
        raise NotImplementedError(f"{type(self).__name__} has no strength by head")

    def kept(self, held: range) -> Tensor:
        """Which of the edited heads are among these: bool ``[h]``."""
        return (self.heads >= held.start) & (self.heads < held.stop)

    def to(self, device: torch.device) -> Self:
        """The edit on a device, where it is copied once."""
        if device not in self._placed:
            values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
            with torch.inference_mode(False):  # a later pass may want gradients
                there = {name: value.to(device) for name, value in values.items() if hasattr(value, "to")}
                self._placed[device] = replace(self, **there)
        placed: Self = self._placed[device]
        return placed


def at_tokens(keys: Tensor, part: Part, heads: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Where the highlighted tokens are in keys ``[B, T, H, D]`` on some heads, and their keys ``[h, k, D]``, float32."""
    index = (part.rows[:, None], part.columns[:, None], heads[None, :])
    return index, keys[index].float().transpose(0, 1)


def with_tokens(keys: Tensor, index: tuple[Tensor, ...], new: Tensor) -> Tensor:
    """The keys with others ``[h, k, D]`` at an index of ``at_tokens``."""
    return torch.index_put(keys, index, new.transpose(0, 1).to(keys.dtype))


def last_queries(queries: Tensor, last: Tensor, groups: int) -> Tensor:
    """The queries of each row's last prompt token, by key-value head: ``[B, H, G, D]``, float32.

    Args:
        queries: ``[B, T, H G, D]`` after the query norm and before rotary positions.
        last: ``[B]`` index of each row's last prompt token.
        groups: G, query heads a key-value head.
    """
    rows = torch.arange(len(queries), device=queries.device)
    return unflatten(queries[rows, last].float(), 1, (-1, groups))
