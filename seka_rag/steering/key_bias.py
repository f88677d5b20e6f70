"""Key bias: the last prompt token scores highlighted keys higher by a given number, through the keys alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from seka_rag.bank import ProjectionBank
from seka_rag.errors import BankError
from seka_rag.hf.marks import Marks, Tally
from seka_rag.hf.rotary import Turning, score_of
from seka_rag.hf.sites import KeySites
from seka_rag.ops.bias import BiasEdit, QueryBiasEdit, equal_scores
from seka_rag.ops.edits import Edit
from seka_rag.ops.shapes import unflatten
from seka_rag.steering.key_editing import KeyEditing
from seka_rag.steering.report import SteeringReport

_DISTANCES = 64  # how many, evenly spaced in their logarithm


class KeyBias(KeyEditing):
    """An attention bias of ``bias`` nats, as the smallest change of the keys that gives it: any kernel, nothing at decoding.

        request    k_j' = k_j + b w_j R(T - j) x / s
                   x = pinv([q_1 .. q_G]) 1
        mean       the same with mu_i in place of q_i
        constant   k_j' = k_j + b w_j c / s
                   c = pinv(mean over d of R(d) [mu_1 .. mu_G]) 1

    q_i are the queries of a key-value head's group at the last prompt token T, mu_i their means over calibration prompts (in
    the bank), R the rotation of the layer, s the factor of its scores, w_j the weight of the highlight. Steered are the heads
    that the bank keeps, or those that it has strengths for, which multiply the bias.

    Attributes:
        bias: b, what the score of a highlighted token gains; negative values turn attention away.
        form: "constant" adds one vector to each key: no query, no position, so it works with prefixes, chunks and any cache,
            and ``bias`` is a mean over distances. "mean" needs to know where the prompt ends, "request" its last query too.
        distances: the nearest and the farthest distance to the prompt's end that "constant" is meant for.
        cap: the most that a key is changed, as a share of its length; more is cut, with a warning.
    """

    strength_field: ClassVar[str] = "bias"

    bias: float = Field(default=2.0, allow_inf_nan=False)
    form: Literal["constant", "mean", "request"] = "constant"
    distances: tuple[int, int] = (16, 4096)
    cap: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> KeyBias:
        if not 0 <= self.distances[0] <= self.distances[1]:
            raise ValueError(f"distances={self.distances}: give the nearest and the farthest, of at least 0")
        return self

    def edits(self, bank: ProjectionBank, sites: KeySites) -> Mapping[int, Edit]:
        """See KeyEditing.

        Raises:
            BankError: the bank has no mean queries, and the form needs them.
            UnsupportedModelError: how this model turns keys by position, or weighs scores, could not be shown.
        """
        if self.form != "request" and bank.queries is None:
            raise BankError(
                f"KeyBias(form={self.form!r}) needs mean queries of prompts' last tokens, which this bank does not hold. "
                "Learn it again, or use form='request'"
            )
        strengths = bank.head_strengths
        edits: dict[int, Edit] = {}
        for layer in self.chosen(bank, strengths.any(1).nonzero().flatten().tolist()):
            heads = strengths[layer].nonzero().flatten()
            if not len(heads):
                continue
            turning, score = score_of(sites, layer)
            biases = self.bias * strengths[layer][heads] / score
            turn = turning if turning.turns else None
            if self.form == "request":
                edits[layer] = QueryBiasEdit(heads, biases, self.cap, turn)
                continue
            assert bank.queries is not None
            means = unflatten(bank.queries.mean[layer].double(), 0, (bank.model.heads, -1))[heads]  # [h, G, D]
            if self.form == "constant":
                means, turn = self._turned(means, turning.of_short_prompts), None
            edits[layer] = BiasEdit(heads, equal_scores(means).float() * biases[:, None], self.cap, turn)
        return edits

    def _turned(self, means: Tensor, turning: Turning) -> Tensor:
        """The mean over distances of the turned queries ``[h, G, D]``."""
        near, far = (torch.tensor(float(max(d, 1))).log() for d in self.distances)
        distances = torch.linspace(near.item(), far.item(), _DISTANCES).exp().round()
        return turning(means[..., None, :], distances).mean(-2).double()

    def complete(self, report: SteeringReport, edits: Mapping[int, Edit], marks: Marks, tally: Tally) -> None:
        if not tally.capped:
            return
        device = tally.capped[0].device
        if cut := torch.cat([c.flatten().to(device) for c in tally.capped]).float().mean().item():
            report.warnings.append(
                f"{cut:.0%} of the changes of keys were longer than {self.cap:g} of the key and were shortened, so "
                "these scores gain less than the bias"
            )
