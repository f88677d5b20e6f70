"""What bank.json says about a bank."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from seka_rag.bank.files import TensorManifest
from seka_rag.hf.identity import ModelIdentity

FORMAT_VERSION = 3


class Learning(BaseModel):
    """How a bank was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "triples"
    triples: int = 0
    tokens: int = 0
    skipped: int = 0
    energy: float | None = None
    heads: str = "all with a gap"


class Header(BaseModel):
    """The content of bank.json."""

    model_config = ConfigDict(extra="forbid")

    format_version: int
    model: ModelIdentity
    learning: Learning
    steering: dict[str, Any]
    tensors: TensorManifest
