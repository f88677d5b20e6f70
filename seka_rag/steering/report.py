"""What was asked for and what took place, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor


@dataclass
class SteeringReport:
    """What was asked for and what took place.

    Attributes:
        method, gain: how.
        tokens_marked: highlighted tokens in the prompt(s).
        tokens_edited: those whose keys were edited; known when the ``with`` ends.
        layers: edited layers; ``heads``: how many key-value heads in them.
        bank: digest of the bank.
        experts: with experts, for each row of the batch: name -> mean weight over the steered heads.
        routing: with experts, layer -> weights ``[B, h, M]`` over the steered heads of the layer and all experts.
        warnings: what the caller should know.
    """

    method: str = "none"
    gain: float = 0.0
    tokens_marked: int = 0
    tokens_edited: int = 0
    layers: tuple[int, ...] = ()
    heads: int = 0
    bank: str | None = None
    experts: list[dict[str, float]] = field(default_factory=list)
    routing: dict[int, Tensor] = field(default_factory=dict, repr=False)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """The report as plain data, for metadata and logs. It holds no text of any document, and no tensors."""
        plain = asdict(replace(self, routing={}))
        del plain["routing"]
        return {**plain, "layers": list(self.layers)}

    def of_row(self, row: int, marked: int, warnings: Sequence[str] = ()) -> SteeringReport:
        """The report of one row of the batch, which has this many highlighted tokens: all of them are edited or none."""
        routing = {layer: alpha[row : row + 1] for layer, alpha in self.routing.items()}
        return replace(
            self,
            tokens_marked=marked if self.tokens_marked else 0,
            tokens_edited=marked if self.tokens_edited else 0,
            experts=self.experts[row : row + 1],
            routing=routing,
            warnings=[*self.warnings, *warnings],
        )


def mean_weights(names: Sequence[str], routing: Mapping[int, Tensor]) -> list[dict[str, float]]:
    """For each row, name of the expert -> mean weight over layers and heads.

    Args:
        routing: layer -> weights ``[B, h, M]``, as ``route`` gives them.
    """
    if not routing:
        return []
    means = torch.cat([alpha.cpu() for alpha in routing.values()], 1).mean(1)  # [B, M]
    return [dict(zip(names, row, strict=True)) for row in means.tolist()]
