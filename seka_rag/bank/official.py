"""The files of the authors' code: ``.pt`` stacks of projections, or of singular vectors.

Two kinds are known: ``*_pos_proj.pt`` and ``*_neg_proj.pt`` hold ``{"layers": ids, "proj": [L, H, D, D]}``, zeros for heads
that were not kept; ``*_pos_svd.pt`` (experts of AdaSEKA) hold ``{"layers", "U_matrices", "singular_values"}``, NaN for those.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seka_rag.errors import BankError

_FEATURES = ("_tanh", "_elu", "_squared-exponential")


def read_projections(path: str | os.PathLike[str], layers: Sequence[int] | None = None) -> dict[int, Tensor]:
    """Layer id -> projections ``[H, D, D]`` of a ``*_proj.pt`` file.

    Args:
        layers: ids of the stacked layers, for a file that does not name them.

    Raises:
        BankError: not such a file, or a file that holds code.
    """
    return _by_layer(_read(path), "proj", 4, layers, Path(path))


def read_singular_vectors(path: str | os.PathLike[str]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Layer id -> singular vectors ``U [H, D, D]`` and values ``S [H, D]`` of a ``*_svd.pt`` file; zeros where NaN.

    Raises:
        BankError: not such a file, or a file that holds code.
    """
    found = _read(path)
    u = _by_layer(found, "U_matrices", 4, None, Path(path))
    s = _by_layer(found, "singular_values", 3, None, Path(path))
    return {i: x.nan_to_num(nan=0.0) for i, x in u.items()}, {i: x.nan_to_num(nan=0.0) for i, x in s.items()}


def holds_singular_vectors(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a ``*_svd.pt`` one, by its content."""
    found = _read(path)
    return isinstance(found, dict) and "U_matrices" in found


def write_projections(path: str | os.PathLike[str], projections: Mapping[int, Tensor]) -> Path:
    """Write a ``*_proj.pt`` file; complete or not at all."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.save({"layers": list(projections), "proj": torch.stack(list(projections.values()))}, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


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
