"""What the queries of prompts' last tokens are on average: where an attention bias through the keys points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from seka_rag.errors import BankError
from seka_rag.hf.identity import ModelIdentity


@dataclass(frozen=True, eq=False)
class MeanQueries:
    """Of the last token of each of some prompts, after the query norm and before rotary positions.

    Attributes:
        mean: layer -> mean query ``[Q, D]`` of the Q query heads.
        power: layer -> mean squared length ``[Q]`` of these queries.
    """

    mean: Mapping[int, Tensor]
    power: Mapping[int, Tensor]

    def __post_init__(self) -> None:
        for name in ("mean", "power"):
            values = {layer: tensor.float().contiguous() for layer, tensor in sorted(getattr(self, name).items())}
            object.__setattr__(self, name, values)

    def focus(self, layer: int) -> Tensor:
        """How alike the queries of each head are, ``[Q]``: |mean|^2 / mean |q|^2, 1 where all are the same."""
        return self.mean[layer].square().sum(-1) / self.power[layer]

    def check(self, model: ModelIdentity) -> None:
        """Raise unless they are of such a model, finite, and possible.

        Raises:
            BankError: names the layer and what is wrong.
        """
        if self.mean.keys() != self.power.keys():
            raise BankError(f"mean queries for layers {list(self.mean)}, their lengths for {list(self.power)}")
        for layer, mean in self.mean.items():
            where, power = f"mean queries of layer {layer}", self.power[layer]
            if not 0 <= layer < model.layers:
                raise BankError(f"{where}: the model has layers 0 to {model.layers - 1}")
            if mean.ndim != 2 or mean.shape[1] != model.head_dim or not len(mean) or len(mean) % model.heads:
                raise BankError(f"{where}: shape {tuple(mean.shape)}, expected ({model.heads} G, {model.head_dim})")
            if power.shape != mean.shape[:1]:
                raise BankError(f"{where}: lengths of shape {tuple(power.shape)}, expected {tuple(mean.shape[:1])}")
            if not mean.isfinite().all() or not power.isfinite().all() or (power <= 0).any():
                raise BankError(f"{where}: not finite, or of no length")
            if (self.focus(layer) > 1 + 1e-3).any():
                raise BankError(f"{where}: longer than the queries that they are the mean of")
