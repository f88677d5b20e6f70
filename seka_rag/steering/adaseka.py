"""AdaSEKA: a mixture of expert subspaces, chosen for each row by its own query in the same forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field, InstanceOf, SerializeAsAny, field_validator
from torch import Tensor, nn

from seka_rag.bank import Bank, ExpertBank
from seka_rag.errors import BankError, SettingError, SteeringError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import reading_queries
from seka_rag.hf.identity import identify
from seka_rag.hf.marks import Marks, Tally
from seka_rag.hf.sites import KeySites
from seka_rag.ops.routing import SCORES, LayerExperts, MixedEdit, RoutedEdit, Router, mixture
from seka_rag.steering.key_editing import KeyEditing, Prepared
from seka_rag.steering.plans import plan
from seka_rag.steering.report import SteeringReport, mean_weights


class AdaSeka(KeyEditing):
    """SEKA with experts (arXiv 2603.01281, sec. 3.3): ``k' = k + g sum_m alpha_m g_m U_m U_m^T k``.

    With ``mixed``, experts of another method: ``k' = k + g sum_m alpha_m g_m (e_m(k) - k)``, e_m its edit with the bank of
    expert m; the subspaces then only choose.

    alpha comes, row by row and head by head, from the query of the row's last prompt token, which every family
    computes before the keys of the same layer are used: no second pass.

    Attributes:
        gain: g; negative values turn attention away.
        top_k: K, leading columns of each expert for the scores and the edit (5 in the paper's runs).
        router: how alpha comes from the query q, K columns u and singular values s of each expert:
            "energy", c = sum (q.u)^2 s, free of the signs of u; "share", the same with s that sum to one in each expert;
            "signed", the paper's c = sum (q.u) s, with signs fixed when learning; "uniform", all the same;
            "random", a control, which deals the weights of "energy" out again at random;
            or a callable (unit queries ``[B, h, D]``, LayerExperts) -> weights ``[B, h, M]``.
        expert: use this expert alone, with weight 1.
        mixed: what each expert does with its own bank, such as ``KeyBias(bias=2)``; None for the paper's projections.
        temperature: None for the paper's alpha = c / max|c|; a number for softmax(c / (max|c| temperature)).
        two_pass: route by the queries of an unsteered pass over the prompt, as in the paper, instead of those that have
            seen the steered layers below. Needed for a prompt that is prefilled in chunks.
    """

    bank_type: ClassVar[type] = ExpertBank

    gain: float = Field(default=1.0, allow_inf_nan=False)
    top_k: int = Field(default=5, ge=1)
    router: Literal["energy", "share", "signed", "uniform", "random"] | Callable[[Tensor, LayerExperts], Tensor] = (
        "energy"
    )
    expert: str | None = None
    temperature: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    two_pass: bool = False
    mixed: SerializeAsAny[InstanceOf[KeyEditing]] | None = None

    @field_validator("mixed")
    @classmethod
    def _plain(cls, mixed: KeyEditing | None) -> KeyEditing | None:
        if isinstance(mixed, AdaSeka):
            raise ValueError("an expert cannot mix experts itself")
        if mixed is not None and (mixed.fade is not None or mixed.layers is not None):
            raise ValueError("give fade and layers to AdaSeka, not to the method of its experts")
        if mixed is not None and not any(mixed.strengths):
            raise ValueError(f"the {mixed.strength_field} of the experts' method is 0, so it would steer nothing")
        return mixed

    def edits(self, bank: ExpertBank, sites: KeySites) -> dict[int, RoutedEdit]:
        """See KeyEditing.

        Raises:
            BankError: no such expert, or a router that needs singular values which the banks lack; ``mixed`` cannot use a
                bank, or steers heads of which it has no subspace to be chosen by.
            SettingError: ``mixed`` needs queries of its own, or edits values.
        """
        if self.expert is not None:
            bank = ExpertBank({self.expert: bank[self.expert]}, gains={self.expert: bank.gains[self.expert]})
        if self.router == "signed":
            unsigned = [name for name in bank.names if set(bank[name].singular_values) != set(bank[name].positive)]
            if unsigned:
                raise BankError(
                    f"router 'signed' needs singular vectors; {', '.join(unsigned)} come from given projections, whose "
                    "columns have no sign or order. Use router='energy'"
                )
        gains = self.gain * torch.tensor([bank.gains[name] for name in bank.names])
        chosen = {layer: bank.layer_experts(layer, self.top_k) for layer in self.chosen(bank)}
        edits = {
            layer: RoutedEdit(experts.heads, experts, self._weights(), gains)
            for layer, experts in chosen.items()
            if experts is not None
        }
        return edits if self.mixed is None else self._mixed(self.mixed, bank, sites, edits)

    def _mixed(
        self, method: KeyEditing, bank: ExpertBank, sites: KeySites, routed: Mapping[int, RoutedEdit]
    ) -> dict[int, RoutedEdit]:
        """The routed edits, with those of a method in place of projections."""
        each = {name: method.edits(bank[name], sites) for name in bank.names}
        for name, edits in each.items():
            ranks = bank[name].ranks
            for layer, edit in edits.items():
                if self.layers is not None and layer not in self.layers:
                    continue
                if edit.needs_query or edit.of_values is not None:
                    raise SettingError(
                        f"experts cannot be mixed of {method!r}: it needs queries of its own or edits values"
                    )
                if lost := edit.heads[ranks[layer, edit.heads] == 0].tolist():
                    raise BankError(
                        f"expert {name!r} has no subspace of heads {lost} of layer {layer}, by which it could be chosen, and "
                        f"{method!r} would steer them"
                    )
        return {
            layer: MixedEdit(r.heads, r.experts, r.router, r.gains, tuple(each[name].get(layer) for name in bank.names))
            for layer, r in routed.items()
        }

    def read_states(
        self, hf_model: nn.Module, bank: ExpertBank, input_ids: Tensor, attention_mask: Tensor | None
    ) -> Mapping[int, Tensor] | None:
        return route(hf_model, bank, self, input_ids, attention_mask) if self.two_pass else None

    @contextmanager
    def attach(
        self,
        hf_model: nn.Module,
        bank: Bank,
        marks: Marks,
        report: SteeringReport,
        prepared: Prepared | Mapping[int, Tensor] | None = None,
    ) -> Iterator[None]:
        if self.two_pass and (prepared.states if isinstance(prepared, Prepared) else prepared) is None:
            raise SteeringError(
                "two_pass routes by an unsteered pass over the prompt: pass prepared=method.prepare(hf_model, bank, "
                "input_ids, attention_mask). SteeredModel does this by itself"
            )
        with super().attach(hf_model, bank, marks, report, prepared):
            yield

    def complete(self, report: SteeringReport, edits: Mapping[int, RoutedEdit], marks: Marks, tally: Tally) -> None:
        report.routing = {  # beams repeat each row
            layer: alpha.cpu()[:: max(1, len(alpha) // marks.batch)] for layer, alpha in sorted(tally.states.items())
        }
        names = next((edit.experts.names for edit in edits.values()), ())
        report.experts = mean_weights(names, report.routing)

    def as_dict(self) -> dict[str, object]:
        if callable(self.router):
            raise SettingError("a router that is a function cannot be stored; use one of the named routers")
        return {**super().as_dict(), **({} if self.mixed is None else {"mixed": self.mixed.as_dict()})}

    def _weights(self) -> Router:
        if self.expert is not None:
            return partial(_scored, SCORES["uniform"], None)
        if callable(self.router):
            return self.router
        return partial(_scored, SCORES[self.router], None if self.router == "uniform" else self.temperature)


def _scored(scores: Router, temperature: float | None, query: Tensor, experts: LayerExperts) -> Tensor:
    return mixture(scores(query, experts), experts.present, temperature)


@torch.inference_mode()
def route(
    hf_model: nn.Module,
    experts: ExpertBank,
    method: AdaSeka,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
) -> dict[int, Tensor]:
    """The weights of the experts by an unsteered pass over the prompts: layer -> ``[B, h, M]``.

    The paper's form of routing. It costs one pass of the decoder, without logits, cache or stored hidden states.

    Args:
        input_ids: ``[B, T]`` whole prompts.
        attention_mask: ``[B, T]``, 0 for padding on either side.

    Raises:
        BankError: the bank belongs to another model.
        UnsupportedModelError: the family is not known.
    """
    sites = find_key_sites(hf_model)
    experts.model.check(identify(hf_model))
    edits = plan(method, experts, sites)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    positions = (mask.cumsum(-1) - 1).clamp_min(0)  # as generate numbers them
    with reading_queries(sites, mask, edits) as weights:
        sites.decoder(input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=False)
    return weights
