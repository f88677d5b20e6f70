"""Attention bias: scores of highlighted tokens are raised inside attention, in every pass; to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from seka_rag.bank import ProjectionBank
from seka_rag.errors import BankError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.marks import Marks
from seka_rag.hf.scores import ScoreBias, biasing
from seka_rag.steering.base import SteeringMethod, report_held
from seka_rag.steering.report import SteeringReport


class AttentionBias(SteeringMethod):
    """``score' = score + b w`` of highlighted tokens before the softmax, for all queries, at prefill and at each step after.

    * PASTA (arXiv 2311.02262) multiplies attention to all other tokens by alpha and renormalises, in chosen heads:
      ``AttentionBias(bias=-log(alpha), heads="bank")``; its alpha of 0.01 is a bias of 4.6.
    * InstABoost (arXiv 2506.13734) multiplies attention to the highlight by m and renormalises, in all heads:
      ``AttentionBias(bias=log(m))``.
    * Spotlight (arXiv 2505.12025) raises it only where it is below a target share, by ``log(target / share)``:
      ``AttentionBias(bias=10, target=0.3)``.

    It needs no bank. Attention must show its scores (sdpa or eager attention; a mask of floats there leaves the fastest
    kernels), and a step costs more. A prefix cannot hold it, as nothing of it is in the cache.

    Attributes:
        bias: b in nats; negative values turn attention away. With a target, the most that is added.
        target: the share of attention that highlighted tokens are to get together; None for no target.
        heads: "all", or those that the "bank" keeps, by its strengths.
        layers: layer ids; None for all.
    """

    bank_type: ClassVar[type | None] = None
    strength_field: ClassVar[str] = "bias"

    bias: float = Field(default=2.0, allow_inf_nan=False)
    target: float | None = Field(default=None, gt=0, lt=1)
    heads: Literal["all", "bank"] = "all"
    layers: tuple[int, ...] | None = None

    def check(self, bank: Any) -> None:
        if self.heads == "bank" and not isinstance(bank, ProjectionBank):
            raise BankError(
                'AttentionBias(heads="bank") takes its heads from a ProjectionBank; give one, or use heads="all"'
            )

    @contextmanager
    def attach(
        self, hf_model: nn.Module, bank: Any, marks: Marks, report: SteeringReport, prepared: None = None
    ) -> Iterator[None]:
        sites = find_key_sites(hf_model)
        strengths = torch.zeros(sites.layers, sites.heads)
        strengths[list(sites.modules)] = 1.0
        if self.heads == "bank":
            strengths = bank.head_strengths
        chosen = strengths.any(1).nonzero().flatten().tolist()
        if missing := sorted(set(self.layers or ()) - set(chosen)):
            raise BankError(f"layers {missing} were asked for; there are {chosen}")
        layers = [layer for layer in chosen if self.layers is None or layer in self.layers]
        biases = {layer: ScoreBias(self.bias * strengths[layer], self.target) for layer in layers}
        report.layers, report.heads = tuple(layers), sum(int(strengths[layer].count_nonzero()) for layer in layers)
        with biasing(hf_model, sites, marks, biases) as tally:
            yield
        report_held(report, marks, tally, layers)
