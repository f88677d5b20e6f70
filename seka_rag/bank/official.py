"""The files of the authors' code: ``.pt`` stacks of projections, or of singular vectors.

Two kinds are known: ``*_pos_proj.pt`` and ``*_neg_proj.pt`` hold ``{"layers": ids, "proj": [L, H, D, D]}``, zeros for heads
that were not kept; ``*_pos_svd.pt`` (experts of AdaSEKA) hold ``{"layers", "U_matrices", "singular_values"}``, NaN for those.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seka_rag.bank.checks import factors_of
from seka_rag.bank.folders import write_file
from seka_rag.errors import BankError
from seka_rag.hf.identity import ModelIdentity
from seka_rag.ops.projection import keep_columns, rank_for_energy

_FEATURES = ("_tanh", "_elu", "_squared-exponential")


def official_factors(
    path: str | os.PathLike[str], model: ModelIdentity, layers: Sequence[int] | None = None, energy: float = 0.9
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Factors ``[H, D, R]`` and, from a file that has them, singular values ``[H, R]``, each by layer id.

    Args:
        layers: ids of the stacked layers, for a file that does not name them.
        energy: share of the singular values to keep, for a ``*_svd.pt`` file.

    Raises:
        BankError: not such a file, a file that holds code, or one of another model.
    """
    path = Path(path)
    found = _read(path)
    if not (isinstance(found, dict) and "U_matrices" in found):
        return factors_of(_by_layer(found, "proj", 4, layers, path), model), {}
    if not 0 < energy <= 1:
        raise BankError(f"energy={energy}: give a share in (0, 1]")
    vectors = _by_layer(found, "U_matrices", 4, layers, path)
    spectra = _by_layer(found, "singular_values", 3, layers, path)
    factors: dict[int, Tensor] = {}
    values: dict[int, Tensor] = {}
    for layer in vectors:
        u, s = vectors[layer].nan_to_num(nan=0.0), spectra[layer].nan_to_num(nan=0.0)
        if tuple(u.shape) != (model.heads, model.head_dim, model.head_dim) or u.shape[:2] != s.shape:
            raise BankError(
                f"{path}, layer {layer}: shapes {tuple(u.shape)} and {tuple(s.shape)} do not fit a model of {model.heads} "
                f"key-value heads of size {model.head_dim}"
            )
        rank = rank_for_energy(s.double(), energy)
        first, width = torch.zeros_like(rank), int(rank.max())
        factors[layer] = keep_columns(u, first, rank)[..., :width]
        values[layer] = keep_columns(s[:, None], first, rank)[:, 0, :width]
    return factors, values


def write_projections(path: str | os.PathLike[str], projections: Mapping[int, Tensor]) -> Path:
    """Write a ``*_proj.pt`` file; complete or not at all."""
    data = io.BytesIO()
    torch.save({"layers": list(projections), "proj": torch.stack(list(projections.values()))}, data)
    return write_file(path, data.getvalue())


def _read(path: str | os.PathLike[str]) -> Any:
    path = Path(path)
    if any(path.stem.endswith(name) for name in _FEATURES):
        raise BankError(f"{path} was learned from keys behind a nonlinear feature map; such files cannot be used")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BankError(f"{path} cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        raise BankError(
            f"{path} is not a file of plain tensors: it is damaged or holds code, which is never run "
            f"({str(error).splitlines()[0]})"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BankError(f"{path} is not a PyTorch file, or damaged: {error}") from None


def _by_layer(found: Any, key: str, ndim: int, layers: Sequence[int] | None, path: Path) -> dict[int, Tensor]:
    stack = found.get(key) if isinstance(found, dict) else found
    named = found.get("layers") if isinstance(found, dict) else None
    if not isinstance(stack, Tensor) or stack.ndim != ndim or not stack.is_floating_point():
        shown = f"{stack.dtype} {tuple(stack.shape)}" if isinstance(stack, Tensor) else type(stack).__name__
        raise BankError(f"{path}: expected a stack {key!r} of {ndim} axes (layers, heads, ...), found {shown}")
    if named is not None and layers is not None and list(named) != list(layers):
        raise BankError(f"{path} names its layers {list(named)}, and layers={list(layers)} was given; leave it out")
    ids = named if named is not None else layers
    if ids is None:
        raise BankError(
            f"{path} does not say which layers it holds; give layers=[...], one id for each of its {len(stack)}"
        )
    ids = list(ids)
    if len(ids) != len(stack) or len(set(ids)) != len(ids) or not all(type(i) is int for i in ids):
        raise BankError(f"{path} holds {len(stack)} layers and names {ids}")
    return dict(zip(ids, stack.float(), strict=True))
