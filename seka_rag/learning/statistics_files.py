"""Statistics in files: collected where the triples are, added later, made into banks as often as you like."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from seka_rag.bank.folders import write_file
from seka_rag.errors import BankError, LearningError
from seka_rag.hf.identity import ModelIdentity
from seka_rag.learning.queries import QuerySums
from seka_rag.learning.statistics import KeyStatistics

_FORMAT, _WITHOUT_QUERIES = 2, 1
_KEY = "seka_statistics"
_TENSORS = ("relevant", "irrelevant", "mean_relevant", "gap")
_QUERIES = ("query_sum", "query_power")


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format_version: int
    model: ModelIdentity
    tokens: int
    triples: int
    skipped: int
    prompts: int = 0
    sha256: str


def save_statistics(path: str | os.PathLike[str], model: ModelIdentity, statistics: KeyStatistics) -> Path:
    """Write statistics and the identity of their model as one safetensors file; complete or not at all.

    Raises:
        LearningError: they hold sums of values, for which the file has no place.
    """
    if statistics.values is not None:
        raise LearningError("statistics of values cannot be written to a file: learn the bank in one run")
    tensors = {name: getattr(statistics, name).contiguous() for name in _TENSORS}
    for name, part in zip(_QUERIES, (statistics.queries.sums, statistics.queries.power), strict=True):
        tensors |= {f"{name}.{layer}": tensor.contiguous() for layer, tensor in part.items()}
    header = _Header(
        format_version=_FORMAT,
        model=model,
        tokens=statistics.tokens,
        triples=statistics.triples,
        skipped=statistics.skipped,
        prompts=statistics.queries.prompts,
        sha256=_digest(tensors),
    )
    return write_file(path, save_tensors(tensors, {_KEY: header.model_dump_json()}))


def load_statistics(path: str | os.PathLike[str]) -> tuple[ModelIdentity, KeyStatistics]:
    """Read and check a file of ``save_statistics``.

    Raises:
        LearningError: missing, damaged, or not such a file.
    """
    header, tensors = _read(Path(path))
    return header.model, _statistics(header, tensors)


def merge_statistics(paths: Sequence[str | os.PathLike[str]]) -> tuple[ModelIdentity, KeyStatistics]:
    """The sum of several files: what one run over all their triples gives.

    Raises:
        LearningError: no file, a damaged one, two of different models, or one given twice.
    """
    if not paths:
        raise LearningError("no statistics to merge")
    seen: dict[str, Path] = {}
    model, total = None, None
    for path in map(Path, paths):
        header, tensors = _read(path)
        if header.sha256 in seen:
            raise LearningError(f"{seen[header.sha256]} and {path} hold the same statistics: give each part once")
        seen[header.sha256] = path
        part = _statistics(header, tensors)
        if model is None or total is None:
            model, total = header.model, part
            continue
        try:
            model.check(header.model)
        except BankError as error:
            raise LearningError(f"{paths[0]} and {path} are of different models: {error}") from None
        if doubts := model.doubts(header.model):
            raise LearningError(f"{paths[0]} and {path} are of different models: {doubts[0]}")
        total += part
    assert model is not None
    assert total is not None
    return model, total


def _read(path: Path) -> tuple[_Header, dict[str, Tensor]]:
    try:
        with safe_open(str(path), "pt") as file:
            header = _Header.model_validate(json.loads((file.metadata() or {})[_KEY]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except OSError as error:
        raise LearningError(f"cannot read statistics from {path}: {error.strerror or error}") from None
    except KeyError:
        raise LearningError(f"{path} holds no statistics: it is another safetensors file") from None
    except (SafetensorError, ValueError) as error:
        raise LearningError(f"{path} is damaged, or not a file of statistics: {error}") from None
    if header.format_version not in (_FORMAT, _WITHOUT_QUERIES):
        raise LearningError(
            f"{path} has format {header.format_version}; this version of seka-rag reads {_WITHOUT_QUERIES} and {_FORMAT}"
        )
    m = header.model
    heads, square = (m.layers, m.heads), (m.layers, m.heads, m.head_dim, m.head_dim)
    shapes = dict(zip(_TENSORS, (square, square, square[:3], heads), strict=True))
    found = {name: tuple(t.shape) for name, t in tensors.items() if name.partition(".")[0] not in _QUERIES}
    if found != shapes or not _queries_fit(header, tensors):
        raise LearningError(f"{path} is damaged: its tensors are not those of its model")
    if any(t.dtype != torch.float64 or not t.isfinite().all() for t in tensors.values()) or header.tokens < 1:
        raise LearningError(f"{path} is damaged: its sums must be finite float64 numbers of at least one token")
    if _digest(tensors) != header.sha256:
        raise LearningError(f"{path} is damaged: its sums do not match their checksum; collect them again")
    return header, tensors


def _statistics(header: _Header, tensors: dict[str, Tensor]) -> KeyStatistics:
    sums, power = (_by_layer(tensors, name) for name in _QUERIES)
    queries = QuerySums(sums, power, header.prompts)
    whole: dict[str, Any] = {name: tensors[name] for name in _TENSORS}
    return KeyStatistics(**whole, queries=queries, tokens=header.tokens, triples=header.triples, skipped=header.skipped)


def _by_layer(tensors: dict[str, Tensor], part: str) -> dict[int, Tensor]:
    return {int(name.partition(".")[2]): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}


def _queries_fit(header: _Header, tensors: dict[str, Tensor]) -> bool:
    """Whether the mean queries, if there are any, are those of such a model."""
    try:
        sums, power = (_by_layer(tensors, name) for name in _QUERIES)
        mean = QuerySums(sums, power, header.prompts).mean()
        if mean is not None:
            mean.check(header.model)
    except (ValueError, ZeroDivisionError):  # a name that is no layer, or what check finds
        return False
    return True


def _digest(tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(save_tensors(tensors)).hexdigest()
