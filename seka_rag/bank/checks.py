"""What the tensors of a bank must fulfil."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from seka_rag.errors import BankError
from seka_rag.hf.identity import ModelIdentity
from seka_rag.ops.projection import factor_of


def check_factors(kind: str, factors: Mapping[int, Tensor], model: ModelIdentity) -> None:
    """Factors ``[H, D, R]`` of layers of the model, finite, with orthonormal (or zero) columns.

    Raises:
        BankError: names the layer and what is wrong.
    """
    for layer, u in factors.items():
        where = f"{kind} factors of layer {layer}"
        if not 0 <= layer < model.layers:
            raise BankError(f"{where}: the model has layers 0 to {model.layers - 1}")
        if u.ndim != 3 or u.shape[:2] != (model.heads, model.head_dim) or u.shape[2] > model.head_dim:
            raise BankError(f"{where}: shape {tuple(u.shape)}, expected ({model.heads}, {model.head_dim}, rank)")
        if not u.isfinite().all():
            raise BankError(f"{where}: not finite")
        if u.shape[2]:
            gram = u.double().transpose(-1, -2) @ u.double()
            wanted = torch.diag_embed(kept_columns(u).double())
            if (off := (gram - wanted).abs().amax().item()) > 1e-4:
                raise BankError(f"{where}: columns are not orthonormal (off by {off:.2g})")


def check_singular_values(values: Mapping[int, Tensor], factors: Mapping[int, Tensor]) -> None:
    """None at all, or one of each column of the factors, positive for a kept and 0 for a dropped one.

    Raises:
        BankError: names the layer and what is wrong.
    """
    if values and values.keys() != factors.keys():
        raise BankError(f"singular values for layers {list(values)}, factors for {list(factors)}")
    for layer, s in values.items():
        where, u = f"singular values of layer {layer}", factors[layer]
        if s.shape != (u.shape[0], u.shape[2]):
            raise BankError(f"{where}: shape {tuple(s.shape)}, expected {(u.shape[0], u.shape[2])}")
        if not s.isfinite().all() or (s < 0).any():
            raise BankError(f"{where}: not finite, or negative")
        if ((s > 0) != kept_columns(u)).any():
            raise BankError(f"{where}: zero for a kept column, or not zero for a dropped one")


def check_heads(name: str, values: Tensor, model: ModelIdentity, *, signed: bool) -> None:
    """``[L, H]``, finite, and not negative unless signed.

    Raises:
        BankError: says what is wrong.
    """
    if tuple(values.shape) != (model.layers, model.heads):
        raise BankError(f"{name}: shape {tuple(values.shape)}, expected {(model.layers, model.heads)}")
    if not values.isfinite().all() or (not signed and (values < 0).any()):
        raise BankError(f"{name}: not finite" + ("" if signed else ", or negative"))


def check_vectors(vectors: Mapping[int, Tensor], model: ModelIdentity) -> None:
    """Vectors ``[H, D]`` of layers of the model, finite.

    Raises:
        BankError: names the layer and what is wrong.
    """
    for layer, v in vectors.items():
        if not 0 <= layer < model.layers:
            raise BankError(f"vectors of layer {layer}: the model has layers 0 to {model.layers - 1}")
        if tuple(v.shape) != (model.heads, model.head_dim):
            raise BankError(
                f"vectors of layer {layer}: shape {tuple(v.shape)}, expected {(model.heads, model.head_dim)}"
            )
        if not v.isfinite().all():
            raise BankError(f"vectors of layer {layer}: not finite")


def kept_columns(factor: Tensor) -> Tensor:
    """Which columns of ``[H, D, R]`` are not zero: bool ``[H, R]``."""
    return factor.abs().amax(1) > 0


def factors_of(matrices: Mapping[int, Tensor], model: ModelIdentity, what: str = "projection") -> dict[int, Tensor]:
    """Layer -> projections ``[H, D, D]`` made elsewhere -> layer -> their factors ``[H, D, R]``.

    Raises:
        BankError: a wrong shape, or a matrix that is not an orthogonal projection.
    """
    wanted, factors = (model.heads, model.head_dim, model.head_dim), {}
    for layer, p in matrices.items():
        if tuple(p.shape) != wanted:
            raise BankError(f"{what} of layer {layer}: shape {tuple(p.shape)}, expected {wanted}")
        try:
            factors[layer] = factor_of(p.detach().cpu())
        except ValueError as error:
            raise BankError(f"{what} of layer {layer}: {error}") from None
    return factors
