"""A bank's content as a folder of two files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from seka_rag.bank.base import without_gain
from seka_rag.bank.files import TensorManifest, parts_by_layer, read_header
from seka_rag.bank.header import FORMAT_VERSION, Calibration, Header, Learning
from seka_rag.bank.queries import MeanQueries
from seka_rag.hf.identity import ModelIdentity

JSON, TENSORS = FILES = ("bank.json", "bank.safetensors")
_BY_LAYER = ("positive", "negative", "singular_values", "vectors", "values")
_QUERIES = ("query_mean", "query_power")


class Content(Protocol):
    """What a bank of one model holds (``ProjectionBank`` says what each part is)."""

    model: ModelIdentity
    learning: Learning
    steering: dict[str, object]
    calibration: Calibration | None
    positive: dict[int, Tensor]
    negative: dict[int, Tensor]
    singular_values: dict[int, Tensor]
    vectors: dict[int, Tensor]
    values: dict[int, Tensor]
    queries: MeanQueries | None
    strengths: Tensor | None
    gap: Tensor
    value_gap: Tensor


def bank_tensors(bank: Content) -> dict[str, Tensor]:
    """All tensors of a bank by name, with the layer after a dot: ``positive.3``."""
    parts = {name: getattr(bank, name) for name in _BY_LAYER}
    if bank.queries is not None:
        parts |= dict(zip(_QUERIES, (bank.queries.mean, bank.queries.power), strict=True))
    named = {f"{name}.{layer}": tensor for name, part in parts.items() for layer, tensor in part.items()}
    some = {} if bank.strengths is None else {"strengths": bank.strengths}
    if bank.values:
        some["value_gap"] = bank.value_gap
    return {**named, **some, "gap": bank.gap}


def bank_files(bank: Content) -> dict[str, bytes]:
    """The content of the files of a bank."""
    manifest, data = TensorManifest.of(bank_tensors(bank))
    header = Header(
        format_version=FORMAT_VERSION,
        model=bank.model,
        learning=bank.learning,
        steering=dict(bank.steering),
        calibration=bank.calibration,
        tensors=manifest,
    )
    return {JSON: f"{header.model_dump_json(indent=2)}\n".encode(), TENSORS: data}


def read_bank(files: Mapping[str, bytes], path: Path) -> dict[str, Any]:
    """The arguments of the bank that the files of a folder hold.

    Raises:
        BankError: another format version, or damaged; says which.
    """
    older = {2: partial(without_gain, usual="Seka")}
    header = read_header(files[JSON], path / JSON, Header, FORMAT_VERSION, older)
    tensors = header.tensors.read(files[TENSORS], path / TENSORS)
    parts = parts_by_layer(
        tensors, (*_BY_LAYER, *_QUERIES), ("gap",), path / TENSORS, optional=("strengths", "value_gap")
    )
    mean, power = (parts.pop(name) for name in _QUERIES)
    queries = MeanQueries(mean, power) if mean or power else None
    return {
        "model": header.model,
        "learning": header.learning,
        "steering": header.steering,
        "calibration": header.calibration,
        "queries": queries,
        **parts,
    }
