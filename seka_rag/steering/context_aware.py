"""Contrastive decoding: what the highlighted tokens change in the next token's logits, amplified; to compare with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from seka_rag.hf.contrast import contrasting
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.marks import Marks
from seka_rag.steering.base import SteeringMethod, report_held
from seka_rag.steering.report import SteeringReport


class ContextAware(SteeringMethod):
    """Context-aware decoding (CAD, arXiv 2305.14739): ``logits' = (1 + a) logits - a logits without the highlighted tokens``.

    AdaCAD (arXiv 2409.07394) is ``adaptive=True``: a is multiplied, token by token, by the Jensen-Shannon divergence of the
    two distributions (base 2, so between 0 and 1): little is changed where the highlight changes little.

    It needs no bank and works with any attention. It costs two forward passes for each one, and two caches. The other pass is
    that of the same prompt without what is highlighted. Logits of the prompt itself are changed as well.

    Attributes:
        alpha: a (0.5 to 1 in the paper; 1 with ``adaptive``).
        adaptive: whether a follows the divergence.
    """

    bank_type: ClassVar[type | None] = None
    strength_field: ClassVar[str] = "alpha"

    alpha: float = Field(default=1.0, allow_inf_nan=False)
    adaptive: bool = False

    @contextmanager
    def attach(
        self, hf_model: nn.Module, bank: Any, marks: Marks, report: SteeringReport, prepared: None = None
    ) -> Iterator[None]:
        with contrasting(hf_model, find_key_sites(hf_model), marks, self.combined) as tally:
            yield
        report_held(report, marks, tally, [0])

    def combined(self, logits: Tensor, without: Tensor) -> Tensor:
        """Logits ``[B, T, V]`` with and without the highlighted tokens -> those to choose from."""
        alpha = self.alpha * divergence(logits, without) if self.adaptive else self.alpha
        return (1 + alpha) * logits - alpha * without


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """Jensen-Shannon divergence, base 2, of next-token distributions: logits ``[..., V]`` twice -> ``[..., 1]``."""
    p, q = logits.log_softmax(-1), others.log_softmax(-1)
    middle = (0.5 * (p.exp() + q.exp())).log()
    both = 0.5 * (p.exp() * (p - middle)).nansum(-1, keepdim=True) + 0.5 * (q.exp() * (q - middle)).nansum(
        -1, keepdim=True
    )
    return (both / math.log(2)).clamp(0, 1)
