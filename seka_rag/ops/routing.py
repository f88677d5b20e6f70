"""Which experts a query calls for, and the edit that follows (AdaSEKA, arXiv 2603.01281, sec. 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from seka_rag.errors import SteeringError


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


#: Scores by name; ``mixture`` makes weights of them.
SCORES: dict[str, Router] = {
    "signed": signed_scores,
    "energy": energy_scores,
    "share": share_scores,
    "uniform": uniform_scores,
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


def unit_queries(queries: Tensor, last: Tensor, heads: Tensor, groups: int) -> Tensor:
    """The query of each row's last prompt token, averaged over the query heads of a group: unit ``[B, h, D]``, float32.

    Args:
        queries: ``[B, T, H G, D]`` after the query norm and before rotary positions.
        last: ``[B]`` index of each row's last prompt token.
        heads: ``[h]`` key-value heads.
        groups: G, query heads a key-value head.
    """
    rows = torch.arange(len(queries), device=queries.device)
    query = queries[rows, last].float().unflatten(1, (-1, groups)).mean(2)[:, heads]
    return torch.nn.functional.normalize(query, dim=-1)


@dataclass(frozen=True)
class RoutedEdit:
    """One layer's edit ``k' = k + w g sum_m alpha_m g_m U_m U_m^T k``, whose alpha comes with the query.

    Attributes:
        experts: of the layer.
        router: weights from queries.
        gains: ``[M]`` gains of the experts, the overall gain included.
    """

    experts: LayerExperts
    router: Router
    gains: Tensor
    _placed: dict[torch.device, RoutedEdit] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def heads(self) -> Tensor:
        return self.experts.heads

    def route(self, query: Tensor) -> Tensor:
        """Unit queries ``[B, h, D]`` -> weights of the experts ``[B, h, M]``, 0 where an expert lacks the head."""
        weights = self.router(query, self.experts)
        wanted = (*query.shape[:2], len(self.experts.names))
        if weights.shape != wanted:
            raise SteeringError(
                f"the router of experts gave weights {tuple(weights.shape)}, expected {wanted}: [B, h, M]"
            )
        return weights.to(query) * self.experts.present

    def of_heads(self, held: range) -> RoutedEdit:
        """The part of the edit on some of the heads, which are counted from the first of them."""
        e = self.experts
        kept = (e.heads >= held.start) & (e.heads < held.stop)
        there = replace(e, heads=e.heads[kept] - held.start, factors=e.factors[kept], values=e.values[kept])
        return replace(self, experts=there)

    def to(self, device: torch.device) -> RoutedEdit:
        """The edit on a device, where it is copied once."""
        if device not in self._placed:
            with torch.inference_mode(False):  # a later pass may want gradients
                e = self.experts
                there = replace(e, heads=e.heads.to(device), factors=e.factors.to(device), values=e.values.to(device))
                self._placed[device] = replace(self, experts=there, gains=self.gains.to(device))
        return self._placed[device]


def edit_keys_routed(
    keys: Tensor, rows: Tensor, columns: Tensor, weights: Tensor, edit: RoutedEdit, alpha: Tensor
) -> Tensor:
    """New keys in which only the named tokens and heads differ, each token by the mixture of experts of its prompt.

    Args:
        keys, rows, columns, weights: as in ``edit_keys``.
        alpha: ``[n, h, M]`` weights of the experts for each highlighted token.

    Returns:
        ``[B, T, H, D]`` in the dtype of ``keys``; the arithmetic is float32.
    """
    factors = edit.experts.factors.flatten(2)  # [h, D, M K]
    index = (rows[:, None], columns[:, None], edit.heads[None, :])
    old = keys[index].float().transpose(0, 1)  # [h, n, D]
    shares = (alpha * edit.gains).repeat_interleave(edit.experts.factors.shape[-1], -1)  # [n, h, M K]
    inner = torch.bmm(old, factors) * (shares * weights[:, None, None]).transpose(0, 1)
    new = torch.baddbmm(old, inner, factors.mT)
    return torch.index_put(keys, index, new.transpose(0, 1).to(keys.dtype))
