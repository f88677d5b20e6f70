"""AdaSEKA: a mixture of expert subspaces, chosen for each row by its own query in the same forward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from seka_rag.bank import ProjectionBank
from seka_rag.errors import BankError
from seka_rag.expert_bank import ExpertBank
from seka_rag.ops.routing import SCORES, LayerExperts, RoutedEdit, Router, mixture
from seka_rag.steering.base import KeySteering


class AdaSeka(KeySteering):
    """SEKA with experts (arXiv 2603.01281, sec. 3.3): ``k' = k + g sum_m alpha_m g_m U_m U_m^T k``.

    alpha comes, row by row and head by head, from the query of the row's last prompt token, which every family
    computes before the keys of the same layer are used: no second pass.

    Attributes:
        top_k: K, leading columns of each expert for the scores and the edit (5 in the paper's runs).
        router: how alpha comes from the query q, K columns u and singular values s of each expert:
            "energy", c = sum (q.u)^2 s, free of the signs of u; "share", the same with s that sum to one in each expert;
            "signed", the paper's c = sum (q.u) s, with signs fixed when learning; "uniform", all the same;
            or a callable (unit queries ``[B, h, D]``, LayerExperts) -> weights ``[B, h, M]``.
        expert: use this expert alone, with weight 1.
        temperature: None for the paper's alpha = c / max|c|; a number for softmax(c / (max|c| temperature)).
        two_pass: route by the queries of an unsteered pass over the prompt, as in the paper, instead of those that have
            seen the steered layers below. Needed for a prompt that is prefilled in chunks.
    """

    top_k: int = Field(default=5, ge=1)
    router: Literal["energy", "share", "signed", "uniform"] | Callable[[Tensor, LayerExperts], Tensor] = "energy"
    expert: str | None = None
    temperature: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    two_pass: bool = False

    def edits(self, bank: ProjectionBank | ExpertBank) -> dict[int, RoutedEdit]:
        """See KeySteering.

        Raises:
            BankError: not an ExpertBank, no such expert, or a router that needs singular values the banks lack.
        """
        if not isinstance(bank, ExpertBank):
            raise BankError("AdaSeka chooses among experts: give an ExpertBank, or use Seka with this bank")
        if self.expert is not None:
            bank = ExpertBank({self.expert: bank[self.expert]}, gains={self.expert: bank.gains[self.expert]})
        if self.router == "signed":
            unsigned = [name for name in bank.names if set(bank[name].singular_values) != set(bank[name].positive)]
            if unsigned:
                raise BankError(
                    f"router 'signed' needs singular vectors; {', '.join(unsigned)} come from given projections, whose "
                    "columns have no sign or order. Use router='energy'"
                )
        if self.gain == 0:
            return {}
        gains = self.gain * torch.tensor([bank.gains[name] for name in bank.names])
        chosen = {layer: bank.layer_experts(layer, self.top_k) for layer in self.chosen(bank)}
        return {
            layer: RoutedEdit(experts, self._weights(), gains)
            for layer, experts in chosen.items()
            if experts is not None
        }

    def _weights(self) -> Router:
        if self.expert is not None:
            return partial(_scored, SCORES["uniform"], None)
        if callable(self.router):
            return self.router
        return partial(_scored, SCORES[self.router], None if self.router == "uniform" else self.temperature)


def _scored(scores: Router, temperature: float | None, query: Tensor, experts: LayerExperts) -> Tensor:
    return mixture(scores(query, experts), experts.present, temperature)
