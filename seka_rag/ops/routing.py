"""Which experts a query calls for, and the edit that follows (AdaSEKA, arXiv 2603.01281, sec. 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from seka_rag.errors import SteeringError
from seka_rag.ops.edits import Edit, Part, at_tokens, with_tokens

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class LayerExperts:
    """M experts of one layer, with at most K columns each.

    Attributes:
        layer: its id.
        names: of the M experts.
        heads: the key-value heads ``[h]`` that at least one expert has.
        factors: ``[h, D, M, K]`` leading singular vectors; zero where an expert lacks the head or the column.
        values: ``[h, M, K]`` their singular values, zero likewise.
    """

    layer: int
    names: tuple[str, ...]
    heads: Tensor
    factors: Tensor
    values: Tensor

    @property
    def present(self) -> Tensor:
        """Which experts have which head: bool ``[h, M]``."""
        return (self.values > 0).any(-1)

    def to(self, device: torch.device) -> LayerExperts:
        """The experts on a device."""
        return replace(
            self, heads=self.heads.to(device), factors=self.factors.to(device), values=self.values.to(device)
        )


#: Unit queries ``[B, h, D]`` and the experts of their layer -> scores, or weights, ``[B, h, M]``.
Router = Callable[[Tensor, LayerExperts], Tensor]


def signed_scores(query: Tensor, experts: LayerExperts) -> Tensor:
    """The paper's ``c_m = sum_j (q . u_mj) s_mj`` (eq. 9). It depends on the signs of the vectors, which learning fixes."""
    return (torch.einsum("bhd,hdmk->bhmk", query, experts.factors) * experts.values).sum(-1)


def energy_scores(query: Tensor, experts: LayerExperts) -> Tensor:
    """Sign-free: ``c_m = sum_j (q . u_mj)^2 s_mj``."""
    return (torch.einsum("bhd,hdmk->bhmk", query, experts.factors).square() * experts.values).sum(-1)


def share_scores(query: Tensor, experts: LayerExperts) -> Tensor:
    """Sign-free and free of scale: ``energy_scores`` with singular values that sum to one in each expert."""
    total = experts.values.sum(-1, keepdim=True).clamp_min(torch.finfo(experts.values.dtype).tiny)
    return energy_scores(query, replace(experts, values=experts.values / total))


def uniform_scores(query: Tensor, experts: LayerExperts) -> Tensor:
    """Every expert that has the head counts the same."""
    return experts.present.to(query.dtype).expand(len(query), -1, -1)


def random_scores(query: Tensor, experts: LayerExperts) -> Tensor:
    """A control: ``energy_scores`` dealt out again at random among the experts that have the head.

    Every row has an order of its own, the same in all layers and heads, so that it favours the same experts throughout;
    equal batches have equal orders.
    """
    scores, present = energy_scores(query, experts), experts.present
    rows, _, m = scores.shape
    noise = torch.rand(rows, 1, m, generator=torch.Generator().manual_seed(0)).to(query.device)
    places = torch.where(present, torch.arange(m, device=query.device), m).argsort(-1).expand(rows, -1, -1)
    dealt = noise.masked_fill(~present, torch.inf).argsort(-1)  # those that have the head first, in random order
    return torch.zeros_like(scores).scatter(-1, places, scores.gather(-1, dealt))


#: Scores by name; ``mixture`` makes weights of them.
SCORES: dict[str, Router] = {
    "signed": signed_scores,
    "energy": energy_scores,
    "share": share_scores,
    "uniform": uniform_scores,
    "random": random_scores,
}


def mixture(scores: Tensor, present: Tensor, temperature: float | None = None) -> Tensor:
    """Weights of the experts from their scores, ``[B, h, M]``; an expert that lacks a head has weight 0 there.

    Without a temperature the paper's ``alpha = c / max|c|``. With one ``alpha = softmax(c / (max|c| temperature))``
    over the experts that have the head: they sum to one, and the lower it is the nearer to choosing a single expert.
    """
    scores = torch.where(present, scores, torch.zeros_like(scores))
    relative = scores / scores.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
    if temperature is None:
        return relative
    return (relative / temperature).masked_fill(~present, -torch.inf).softmax(-1)


@dataclass(frozen=True, eq=False)
class RoutedEdit(Edit):
    """One layer's edit ``k' = k + w g sum_m alpha_m g_m U_m U_m^T k``, whose alpha comes with the query.

    Attributes:
        experts: of the layer, with the edited heads.
        router: weights from queries.
        gains: ``[M]`` gains of the experts, the overall gain included.
    """

    experts: LayerExperts
    router: Router
    gains: Tensor

    needs_query: ClassVar[bool] = True

    def read_query(self, queries: Tensor) -> Tensor:
        """Weights of the experts ``[B, h, M]``, by the unit mean query of each group."""
        return self.route(torch.nn.functional.normalize(queries.mean(2), dim=-1))

    def route(self, query: Tensor) -> Tensor:
        """Unit queries ``[B, h, D]`` -> weights of the experts ``[B, h, M]``, 0 where an expert lacks the head."""
        weights = self.router(query, self.experts)
        wanted = (*query.shape[:2], len(self.experts.names))
        if weights.shape != wanted:
            raise SteeringError(
                f"the router of experts gave weights {tuple(weights.shape)}, expected {wanted}: [B, h, M]"
            )
        return weights.to(query) * self.experts.present

    def of_heads(self, held: range) -> Self:
        e, kept = self.experts, self.kept(held)
        heads = e.heads[kept] - held.start
        there = replace(e, heads=heads, factors=e.factors[kept], values=e.values[kept])
        return replace(self, heads=heads, experts=there)

    def apply(self, keys: Tensor, part: Part, state: Tensor | None) -> Tensor:
        """Each token is edited by the mixture of experts of its prompt: ``state [k, h, M]``."""
        assert state is not None
        factors = self.experts.factors.flatten(2)  # [h, D, M K]
        index, old = at_tokens(keys, part, self.heads)
        shares = (state * self.gains).repeat_interleave(self.experts.factors.shape[-1], -1)  # [k, h, M K]
        inner = torch.bmm(old, factors) * (shares * part.weights[:, None, None]).transpose(0, 1)
        return with_tokens(keys, index, torch.baddbmm(old, inner, factors.mT))


@dataclass(frozen=True, eq=False)
class MixedEdit(RoutedEdit):
    """``RoutedEdit`` of other edits than projections: ``k' = k + g sum_m alpha_m g_m (e_m(k) - k)``.

    Attributes:
        mixed: e_m, the edit of each expert in this layer, on heads of ``experts``; None where it has none.
    """

    mixed: tuple[Edit | None, ...] = ()

    @property
    def needs_distance(self) -> bool:
        return any(edit is not None and edit.needs_distance for edit in self.mixed)

    def of_heads(self, held: range) -> Self:
        mixed = tuple(None if edit is None else edit.of_heads(held) for edit in self.mixed)
        return replace(super().of_heads(held), mixed=mixed)

    def to(self, device: torch.device) -> Self:
        if device not in self._placed:
            mixed = tuple(None if edit is None else edit.to(device) for edit in self.mixed)
            self._placed[device] = replace(super().to(device), mixed=mixed)
        placed: Self = self._placed[device]
        return placed

    def apply(self, keys: Tensor, part: Part, state: Tensor | None) -> Tensor:
        assert state is not None
        index, old = at_tokens(keys, part, self.heads)
        here = keys[part.rows, part.columns][None].float()  # [1, k, H, D]: every expert edits the highlighted keys only
        inner = replace(
            part, rows=torch.zeros_like(part.rows), columns=torch.arange(len(part.rows), device=keys.device)
        )
        shares = (state * self.gains).permute(2, 1, 0)[..., None]  # [M, h, k, 1]
        for share, edit in zip(shares, self.mixed, strict=True):
            if edit is not None:
                changed = edit.apply(here, inner, None) - here
                old = old + share * changed[0, :, self.heads].transpose(0, 1)
        return with_tokens(keys, index, old)
