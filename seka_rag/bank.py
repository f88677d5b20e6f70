"""Projection banks: what was learned for one model, with the identity of that model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from seka_rag.errors import BankError
from seka_rag.hf.identity import ModelIdentity, identify
from seka_rag.ops.projection import factor_of, projection

FORMAT_VERSION = 2
_JSON, _TENSORS = "bank.json", "bank.safetensors"


class Learning(BaseModel):
    """How a bank was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "triples"
    triples: int = 0
    tokens: int = 0
    skipped: int = 0
    energy: float | None = None
    heads: str = "all with a gap"
    library: str = ""


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format_version: int
    model: ModelIdentity
    learning: Learning
    suggested_gain: float
    tensors_sha256: str


class ProjectionBank:
    """The relevance subspaces of one model's key heads.

    Attributes:
        model: identity of the model.
        positive: layer -> orthonormal factors ``U+ [H, D, R]`` (columns beyond a head's rank are zero; a head that is
            not steered is all zero); the projection is ``P+ = U+ U+^T``.
        singular_values: layer -> the singular value of each column of ``positive``, ``[H, R]``, 0 where the column is zero;
            empty if the bank was not learned here (``from_projections`` does not know them).
        negative: layer -> factors of ``P-``, or empty.
        gap: ``[L, H]`` relevance gap, the mean l2 distance of relevant and irrelevant keys.
        suggested_gain: a gain to start from.
    """

    def __init__(
        self,
        model: ModelIdentity,
        positive: Mapping[int, Tensor],
        negative: Mapping[int, Tensor] | None = None,
        gap: Tensor | None = None,
        learning: Learning | None = None,
        suggested_gain: float = 0.5,
        singular_values: Mapping[int, Tensor] | None = None,
    ) -> None:
        self.model = model
        self.positive = {layer: f.float().contiguous() for layer, f in sorted(positive.items())}
        self.negative = {layer: f.float().contiguous() for layer, f in sorted((negative or {}).items())}
        self.singular_values = {layer: s.float().contiguous() for layer, s in sorted((singular_values or {}).items())}
        self.gap = torch.zeros(model.layers, model.heads) if gap is None else gap.float().contiguous()
        self.learning = learning or Learning()
        self.suggested_gain = float(suggested_gain)
        self._check_tensors()

    # --- what it holds

    @property
    def ranks(self) -> Tensor:
        """``[L, H]`` int64: the kept rank of each head, 0 where the head is not steered."""
        ranks = torch.zeros(self.model.layers, self.model.heads, dtype=torch.long)
        for layer, factor in self.positive.items():
            ranks[layer] = (factor.abs().amax(1) > 0).sum(-1)
        return ranks

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that the bank steers."""
        return tuple(self.positive)

    @cached_property  # every steered call reports it, and it hashes all tensors
    def digest(self) -> str:
        """A short name for exactly this content."""
        return hashlib.sha256(save_tensors(self._tensors()) + self.model.model_dump_json().encode()).hexdigest()[:16]

    def projection(self, layer: int) -> Tensor:
        """``P+`` of a layer, ``[H, D, D]``.

        Raises:
            BankError: the bank has no such layer.
        """
        if layer not in self.positive:
            raise BankError(f"the bank has no layer {layer}; it has {sorted(self.positive)}")
        return projection(self.positive[layer])

    def __repr__(self) -> str:
        heads = int((self.ranks > 0).sum())
        total = self.model.layers * self.model.heads
        return f"ProjectionBank({self.model.model_type}, {heads} of {total} heads, digest {self.digest})"

    # --- from elsewhere

    @classmethod
    def from_projections(
        cls,
        model: Any,
        projections: Mapping[int, Tensor],
        negative: Mapping[int, Tensor] | None = None,
        suggested_gain: float = 0.5,
    ) -> ProjectionBank:
        """A bank from matrices made elsewhere. It has no singular values and no gap: a projection does not hold them.

        Args:
            model: the transformers model (or SteeredModel) that they belong to.
            projections: layer id -> orthogonal projections ``P [H, D, D]``; zeros for heads to leave alone.
            negative: the same for the negative part.

        Raises:
            BankError: a wrong shape or layer, or a matrix that is not an orthogonal projection.
        """
        identity = model if isinstance(model, ModelIdentity) else identify(getattr(model, "hf_model", model))

        def factors(matrices: Mapping[int, Tensor] | None, what: str) -> dict[int, Tensor]:
            result = {}
            for layer, p in (matrices or {}).items():
                wanted = (identity.heads, identity.head_dim, identity.head_dim)
                if tuple(p.shape) != wanted:
                    raise BankError(f"{what} of layer {layer}: shape {tuple(p.shape)}, expected {wanted}")
                try:
                    result[layer] = factor_of(p.detach().cpu())
                except ValueError as error:
                    raise BankError(f"{what} of layer {layer}: {error}") from None
            return result

        return cls(
            identity,
            factors(projections, "projection"),
            factors(negative, "negative projection"),
            learning=Learning(method="given projections"),
            suggested_gain=suggested_gain,
        )

    # --- files

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the bank as a folder of ``bank.safetensors`` and ``bank.json``; complete or not at all."""
        path = Path(path)
        if path.is_file():
            raise BankError(f"{path} is a file; a bank is saved as a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        data = save_tensors(self._tensors())
        header = _Header(
            format_version=FORMAT_VERSION,
            model=self.model,
            learning=self.learning,
            suggested_gain=self.suggested_gain,
            tensors_sha256=hashlib.sha256(data).hexdigest(),
        )
        staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        try:
            (staging / _TENSORS).write_bytes(data)
            (staging / _JSON).write_text(header.model_dump_json(indent=2) + "\n", encoding="utf-8")
            staging.chmod(0o755)
            if path.exists():
                foreign = {p.name for p in path.iterdir()} - {_JSON, _TENSORS}
                if foreign:
                    raise BankError(
                        f"{path} holds other files ({', '.join(sorted(foreign))}); give an empty or new folder"
                    )
                shutil.rmtree(path)
            staging.rename(path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ProjectionBank:
        """Read a bank and check it whole.

        Raises:
            BankError: not a bank, another format version, or damaged; says which.
        """
        path = Path(path)
        try:
            header = _Header.model_validate(json.loads((path / _JSON).read_text(encoding="utf-8")))
            data = (path / _TENSORS).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BankError(f"{path} is not a bank: {error.filename} is missing") from None
        except (ValueError, ValidationError) as error:
            raise BankError(f"{path / _JSON} is damaged: {error}") from None
        if header.format_version != FORMAT_VERSION:
            raise BankError(f"{path} has bank format {header.format_version}; this version reads {FORMAT_VERSION}")
        if hashlib.sha256(data).hexdigest() != header.tensors_sha256:
            raise BankError(
                f"{path / _TENSORS} is damaged: its content does not match bank.json; fetch or learn it again"
            )
        try:
            tensors = load_tensors(data)
        except SafetensorError as error:
            raise BankError(f"{path / _TENSORS} is damaged: {error}") from None
        parts: dict[str, dict[int, Tensor]] = {"positive": {}, "negative": {}, "singular_values": {}}
        for name, tensor in tensors.items():
            kind, _, layer = name.partition(".")
            if kind in parts and layer.isdigit():
                parts[kind][int(layer)] = tensor
            elif name != "gap":
                raise BankError(f"{path / _TENSORS} is damaged: unexpected tensor {name!r}")
        return cls(
            header.model,
            parts["positive"],
            parts["negative"],
            tensors.get("gap"),
            header.learning,
            header.suggested_gain,
            parts["singular_values"],
        )

    def _tensors(self) -> dict[str, Tensor]:
        parts = {"positive": self.positive, "negative": self.negative, "singular_values": self.singular_values}
        named = {f"{name}.{layer}": tensor for name, part in parts.items() for layer, tensor in part.items()}
        return {**named, "gap": self.gap}

    def _check_tensors(self) -> None:
        m = self.model
        if tuple(self.gap.shape) != (m.layers, m.heads):
            raise BankError(f"gap: shape {tuple(self.gap.shape)}, expected {(m.layers, m.heads)}")
        for kind, factors in (("positive", self.positive), ("negative", self.negative)):
            for layer, u in factors.items():
                where = f"{kind} factors of layer {layer}"
                if not 0 <= layer < m.layers:
                    raise BankError(f"{where}: the model has layers 0 to {m.layers - 1}")
                if u.ndim != 3 or u.shape[:2] != (m.heads, m.head_dim) or u.shape[2] > m.head_dim:
                    raise BankError(f"{where}: shape {tuple(u.shape)}, expected ({m.heads}, {m.head_dim}, rank)")
                if not u.isfinite().all():
                    raise BankError(f"{where}: not finite")
                gram = (
                    (u.transpose(-1, -2).double() @ u.double()) if u.shape[2] else u.new_zeros(m.heads, 0, 0).double()
                )
                live = torch.diagonal(gram, dim1=-2, dim2=-1) > 0.5
                off = (gram - torch.diag_embed(live.double())).abs().amax().item() if u.shape[2] else 0.0
                if off > 1e-4:
                    raise BankError(f"{where}: columns are not orthonormal (off by {off:.2g})")
        if self.singular_values and self.singular_values.keys() != self.positive.keys():
            raise BankError(
                f"singular values for layers {list(self.singular_values)}, factors for {list(self.positive)}"
            )
        for layer, s in self.singular_values.items():
            where, u = f"singular values of layer {layer}", self.positive[layer]
            if s.shape != (u.shape[0], u.shape[2]):
                raise BankError(f"{where}: shape {tuple(s.shape)}, expected {(u.shape[0], u.shape[2])}")
            if not s.isfinite().all() or (s < 0).any():
                raise BankError(f"{where}: not finite, or negative")
            if ((s > 0) != (u.abs().amax(1) > 0)).any():
                raise BankError(f"{where}: zero for a kept column, or not zero for a dropped one")
