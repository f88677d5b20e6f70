"""A JSON header and safetensors, checked whole when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from seka_rag.errors import BankError

M = TypeVar("M", bound=BaseModel)


class TensorManifest(BaseModel):
    """What a header says about its safetensors file, so that any change of it is noticed and named."""

    model_config = ConfigDict(extra="forbid")

    sha256: str
    shapes: dict[str, list[int]]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> tuple[TensorManifest, bytes]:
        """The manifest of float32 tensors, and the bytes of their file."""
        data = save_tensors(dict(tensors))
        shapes = {name: list(t.shape) for name, t in sorted(tensors.items())}
        return cls(sha256=hashlib.sha256(data).hexdigest(), shapes=shapes), data

    def read(self, data: bytes, where: Path) -> dict[str, Tensor]:
        """The tensors of a file.

        Raises:
            BankError: the content is not what the manifest says: another checksum, or a tensor that is missing, unexpected,
                not float32 or of another shape.
        """
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise BankError(
                f"{where} is damaged: its {len(data)} bytes do not match the checksum in its header; fetch or learn it again"
            )
        try:
            tensors: dict[str, Tensor] = load_tensors(data)
        except SafetensorError as error:
            raise BankError(f"{where} is damaged: {error}") from None
        for name in sorted(self.shapes.keys() | tensors.keys()):
            if name not in tensors:
                raise BankError(f"{where} is damaged: tensor {name!r} is missing")
            if name not in self.shapes:
                raise BankError(f"{where} is damaged: unexpected tensor {name!r}")
            tensor, shape = tensors[name], tuple(self.shapes[name])
            if tensor.dtype != torch.float32:
                raise BankError(f"{where} is damaged: tensor {name!r} is {tensor.dtype}, expected torch.float32")
            if tuple(tensor.shape) != shape:
                raise BankError(
                    f"{where} is damaged: tensor {name!r} has shape {tuple(tensor.shape)}, expected {shape}"
                )
        return tensors


def parts_by_layer(
    tensors: Mapping[str, Tensor],
    by_layer: Collection[str],
    whole: Collection[str],
    where: Path,
    optional: Collection[str] = (),
) -> dict[str, Any]:
    """The tensors of a file by part: ``part.3`` is that of layer 3, and a whole one is a part by itself.

    Raises:
        BankError: a whole part is missing, or a tensor belongs to no part.
    """
    parts: dict[str, Any] = {name: {} for name in by_layer}
    for name, tensor in tensors.items():
        part, _, layer = name.partition(".")
        if name in whole or name in optional:
            parts[name] = tensor
        elif part in by_layer and layer.isdecimal():
            parts[part][int(layer)] = tensor
        else:
            raise BankError(f"{where} is damaged: unexpected tensor {name!r}")
    if missing := [name for name in whole if name not in parts]:
        raise BankError(f"{where} is damaged: tensor {missing[0]!r} is missing")
    return parts


def read_header(
    data: bytes,
    path: Path,
    kind: type[M],
    version: int,
    older: Mapping[int, Callable[[dict[str, object]], dict[str, object]]],
) -> M:
    """A JSON header of a known version.

    Args:
        data: the content of the file at ``path``.
        older: earlier versions that can be read -> what makes a header of this version of one of them.

    Raises:
        BankError: damaged, or of another format version.
    """
    try:
        found = json.loads(data)
        if not isinstance(found, dict) or type(found.get("format_version")) is not int:
            raise ValueError("it has no format_version")
        if found["format_version"] in older:
            found = {**older[found["format_version"]](found), "format_version": version}
        if found["format_version"] != version:
            known = " and ".join(map(str, [*sorted(older), version]))
            raise BankError(
                f"{path} has format {found['format_version']}; this version of seka-rag reads {known}. Learn the bank "
                "again, or install the version that wrote it"
            )
        return kind.model_validate(found)
    except BankError:
        raise
    except (ValueError, RecursionError, ValidationError) as error:  # JSON and UTF-8 among them
        raise BankError(f"{path} is damaged: {error}") from None
