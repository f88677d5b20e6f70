"""An attention bias through the keys: a vector is added to a key, so that some queries score it higher by a given number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from seka_rag.ops.edits import Edit, Part, at_tokens, with_tokens

#: ``(vectors [..., D], distances [...]) -> R(d) x``: turns by rotary positions.
Turn = Callable[[Tensor, Tensor], Tensor]


def equal_scores(queries: Tensor, rtol: float = 1e-2) -> Tensor:
    """The shortest ``x [..., D]`` with ``q_i . x = 1`` for all queries ``[..., G, D]`` of a group.

    Args:
        rtol: a direction in which the queries differ by less than this share of the largest one is not followed.
    """
    ones = queries.new_ones(*queries.shape[:-1], 1)
    solved: Tensor = torch.linalg.pinv(queries, rtol=rtol) @ ones
    return solved.squeeze(-1)


def equal_scores_at_once(queries: Tensor, rtol: float = 1e-2) -> Tensor:
    """``equal_scores`` without waiting for the device, which singular values take: by the G x G products of the queries.

    A direction of the squared singular value v is followed by ``v^2 / (v^2 + d^2)``, the real part of ``v / (v + i d)``:
    wholly above d, ``rtol^2`` of the products' norm, and hardly below.
    """
    products = queries @ queries.mT
    scale: Tensor = torch.linalg.matrix_norm(products).clamp_min(torch.finfo(queries.dtype).tiny)[..., None, None]
    eye = torch.eye(queries.shape[-2], dtype=queries.dtype, device=queries.device)
    damped = torch.complex(products / scale, (rtol**2 * eye).expand_as(products))
    share: Tensor = torch.linalg.solve_ex(damped, torch.ones_like(damped[..., :1]))[0].real
    return (queries.mT @ (share / scale)).squeeze(-1)


@dataclass(frozen=True, eq=False)
class BiasEdit(Edit):
    """One layer's edit ``k' = k + w R(T - j) x``, or without rotation ``k' = k + w x``.

    Attributes:
        vectors: ``[h, D]`` x, the bias included.
        cap: most that an edit may be as a share of its key's length; a longer one is shortened. None for no limit, which
            gradients need where x may be 0.
        turn: R; None if x is added as it is. T is the position of the row's last prompt token and j that of the key.
    """

    vectors: Tensor
    cap: float | None
    turn: Turn | None = None

    @property
    def needs_distance(self) -> bool:
        return self.turn is not None

    def apply(self, keys: Tensor, part: Part, state: Tensor | None = None) -> Tensor:
        return _added(keys, part, self, self.vectors[:, None])

    def scaled(self, strengths: Tensor) -> BiasEdit:
        return replace(self, vectors=self.vectors * strengths[:, None], cap=None)

    def of_heads(self, held: range) -> BiasEdit:
        kept = self.kept(held)
        return replace(self, heads=self.heads[kept] - held.start, vectors=self.vectors[kept])


@dataclass(frozen=True, eq=False)
class QueryBiasEdit(Edit):
    """``BiasEdit`` whose x comes from the queries of the row's own last prompt token.

    Attributes:
        biases: ``[h]`` what the scores are to gain, over the factor of the scores.
        cap, turn: as in ``BiasEdit``.
    """

    biases: Tensor
    cap: float
    turn: Turn | None = None

    needs_query: ClassVar[bool] = True

    @property
    def needs_distance(self) -> bool:
        return self.turn is not None

    def read_query(self, queries: Tensor) -> Tensor:
        """The shortest vectors ``[B, h, D]`` that each query of a group scores 1."""
        return equal_scores_at_once(queries)

    def apply(self, keys: Tensor, part: Part, state: Tensor | None) -> Tensor:
        assert state is not None
        return _added(keys, part, self, (state * self.biases[:, None]).transpose(0, 1))

    def of_heads(self, held: range) -> QueryBiasEdit:
        kept = self.kept(held)
        return replace(self, heads=self.heads[kept] - held.start, biases=self.biases[kept])


def _added(keys: Tensor, part: Part, edit: Any, vectors: Tensor) -> Tensor:
    """Keys with vectors ``[h, k or 1, D]`` added, turned, weighted and capped."""
    index, old = at_tokens(keys, part, edit.heads)
    if edit.turn is not None:
        assert part.distances is not None
        vectors = edit.turn(vectors, part.distances)
    weights = part.weights  # [k], or shortened [h, k]
    if edit.cap is not None:
        tiny = torch.finfo(old.dtype).tiny
        weights = weights.minimum(edit.cap * old.norm(dim=-1) / vectors.norm(dim=-1).clamp_min(tiny))
        part.capped.append(weights < part.weights)
    return with_tokens(keys, index, torch.addcmul(old, vectors, weights[..., None]))
