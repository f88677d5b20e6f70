"""Projection banks: what was learned for one model, with the identity of that model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from seka_rag.bank.base import gain_of, stored_method
from seka_rag.bank.card import model_card
from seka_rag.bank.checks import (
    check_factors,
    check_heads,
    check_singular_values,
    check_vectors,
    factors_of,
    kept_columns,
)
from seka_rag.bank.folders import holds, read_folder, write_folder
from seka_rag.bank.header import Calibration, Learning
from seka_rag.bank.heads import HeadChoice, select_heads
from seka_rag.bank.hub import find_folder, upload_files
from seka_rag.bank.official import official_factors, write_projections
from seka_rag.bank.queries import MeanQueries
from seka_rag.bank.storage import FILES, bank_files, bank_tensors, read_bank
from seka_rag.errors import BankError
from seka_rag.hf.identity import ModelIdentity, identify
from seka_rag.ops.projection import projection


class ProjectionBank:
    """The relevance subspaces of one model's key heads.

    Attributes:
        model: identity of the model.
        positive: layer -> orthonormal factors ``U+ [H, D, R]`` (columns beyond a head's rank are zero; a head that is
            not steered is all zero); the projection is ``P+ = U+ U+^T``.
        singular_values: layer -> the singular value of each column of ``positive``, ``[H, R]``, 0 where the column is zero;
            empty if the bank was not learned here (``from_projections`` does not know them).
        negative: layer -> factors of ``P-``, or empty.
        values: layer -> factors of the values' subspaces, as ``positive`` those of keys, for the same layers; or empty.
        gap: ``[L, H]`` relevance gap, the mean l2 distance of relevant and irrelevant keys; ``value_gap`` that of values.
        queries: mean queries of the last tokens of prompts; None if they were not learned.
        strengths: ``[L, H]`` how strongly a head is steered, of any sign, by methods that can; None for all kept heads alike.
        vectors: layer -> ``[H, D]``, one trained vector per head that ``KeyVector`` adds to highlighted keys; or empty.
        steering: the method to start with, in stored form; SEKA at ``suggested_gain`` if nothing else is given.
        calibration: how that method was found; None if it was not calibrated.
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
        steering: Mapping[str, object] | None = None,
        queries: MeanQueries | None = None,
        strengths: Tensor | None = None,
        vectors: Mapping[int, Tensor] | None = None,
        calibration: Calibration | None = None,
        values: Mapping[int, Tensor] | None = None,
        value_gap: Tensor | None = None,
    ) -> None:
        self.model = model
        self.positive = {layer: f.float().contiguous() for layer, f in sorted(positive.items())}
        self.negative = {layer: f.float().contiguous() for layer, f in sorted((negative or {}).items())}
        self.singular_values = {layer: s.float().contiguous() for layer, s in sorted((singular_values or {}).items())}
        self.values = {layer: f.float().contiguous() for layer, f in sorted((values or {}).items())}
        self.gap, self.value_gap = (
            torch.zeros(model.layers, model.heads) if g is None else g.float().contiguous() for g in (gap, value_gap)
        )
        self.learning = learning or Learning()
        self.steering = stored_method("Seka", steering, float(suggested_gain))
        self.queries, self.calibration = queries, calibration
        self.vectors = {layer: v.float().contiguous() for layer, v in sorted((vectors or {}).items())}
        self.strengths = None if strengths is None else strengths.float().contiguous()
        check_factors("positive", self.positive, model)
        check_factors("negative", self.negative, model)
        check_factors("value", self.values, model)
        if self.values and self.values.keys() != self.positive.keys():
            raise BankError(f"values for layers {list(self.values)}, keys for {list(self.positive)}")
        check_singular_values(self.singular_values, self.positive)
        check_vectors(self.vectors, model)
        check_heads("gap", self.gap, model, signed=False)
        check_heads("value gap", self.value_gap, model, signed=False)
        if self.strengths is not None:
            check_heads("strengths", self.strengths, model, signed=True)
        if queries is not None:
            queries.check(model)

    # --- what it holds

    names: tuple[str, ...] = ()  # of experts: it is one bank

    @property
    def ranks(self) -> Tensor:
        """``[L, H]`` int64: the kept rank of each head, 0 where the head is not steered."""
        ranks = torch.zeros(self.model.layers, self.model.heads, dtype=torch.long)
        for layer, factor in self.positive.items():
            ranks[layer] = kept_columns(factor).sum(-1)
        return ranks

    @property
    def head_count(self) -> int:
        """How many key-value heads the model has: layers of a hybrid that keep no keys have none, nor mean queries."""
        return self.model.heads * (self.model.layers if self.queries is None else len(self.queries.mean))

    @property
    def head_strengths(self) -> Tensor:
        """``[L, H]``: ``strengths``, or 1 for each kept head."""
        return (self.ranks > 0).float() if self.strengths is None else self.strengths

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that the bank steers."""
        return tuple(self.positive)

    @property
    def suggested_gain(self) -> float:
        """The gain of the suggested method; 1 if it has none."""
        return gain_of(self.steering)

    @cached_property  # every steered call reports it, and it hashes all tensors
    def digest(self) -> str:
        """A short name for exactly this content."""
        return hashlib.sha256(save_tensors(bank_tensors(self)) + self.model.model_dump_json().encode()).hexdigest()[:16]

    def projection(self, layer: int) -> Tensor:
        """``P+`` of a layer, ``[H, D, D]``.

        Raises:
            BankError: the bank has no such layer.
        """
        if layer not in self.positive:
            raise BankError(f"the bank has no layer {layer}; it has {sorted(self.positive)}")
        return projection(self.positive[layer])

    def select(
        self,
        *,
        layers: Sequence[int] | None = None,
        min_gap: float | None = None,
        best: float | None = None,
        quantile: float | None = None,
        heads: Sequence[tuple[int, int]] | None = None,
    ) -> ProjectionBank:
        """A bank of fewer heads.

        Args:
            layers: keep only these layers, by their id in the model.
            min_gap, best, quantile, heads: keep only the heads that this rule chooses (at most one rule, as in
                ``learn_bank``). A share is one of all heads of the model (``head_count``).

        Raises:
            BankError: a layer that the bank lacks, a head chosen for which it holds nothing (it was not kept when the bank
                was learned), or a choice that leaves none.
            SettingError: two rules, or a value that means nothing.
        """
        rule = HeadChoice(min_gap, best, quantile, heads)
        chosen = select_heads(self.gap, (self.ranks > 0) | (self.head_strengths != 0), rule, self.head_count, layers)

        def only(part: Mapping[int, Tensor]) -> dict[int, Tensor]:
            kept = [layer for layer in part if chosen[layer].any()]
            return {i: part[i] * chosen[i].view(-1, *[1] * (part[i].ndim - 1)) for i in kept}

        note = f"{self.learning.heads}; of these {rule}" + (f" in layers {sorted(set(layers))}" if layers else "")
        parts = ("positive", "negative", "singular_values", "vectors", "values")
        return self.changed(
            **{part: only(getattr(self, part)) for part in parts},
            learning=self.learning.model_copy(update={"heads": note}),
            strengths=None if self.strengths is None else self.strengths * chosen,
        )

    def changed(self, **content: Any) -> ProjectionBank:
        """A bank with some of its content changed, by the names of its attributes; its calibration is not kept.

        Raises:
            BankError: content that does not belong together.
        """
        names = (
            "model positive negative gap learning singular_values steering queries strengths vectors values value_gap"
        )
        return ProjectionBank(**{**{name: getattr(self, name) for name in names.split()}, **content})

    def __repr__(self) -> str:
        heads = int((self.ranks > 0).sum())
        return f"ProjectionBank({self.model.model_type}, {heads} of {self.head_count} heads, digest {self.digest})"

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
        identity = _identity(model)
        positive, tails = factors_of(projections, identity), factors_of(negative or {}, identity, "negative projection")
        learning = Learning(method="given projections")
        return cls(identity, positive, tails, learning=learning, suggested_gain=suggested_gain)

    @classmethod
    def from_official(
        cls,
        path: str | os.PathLike[str],
        negative: str | os.PathLike[str] | None = None,
        *,
        model: Any,
        layers: Sequence[int] | None = None,
        energy: float = 0.9,
        suggested_gain: float = 0.5,
    ) -> ProjectionBank:
        """A bank from ``.pt`` files of the authors' code. Layers are taken by the ids in the file, not by their place.

        Args:
            path: a ``*_pos_proj.pt`` file of projections, or a ``*_pos_svd.pt`` file of singular vectors and values (an
                expert of AdaSEKA). The signs of the latter's vectors are arbitrary, as its code left them.
            negative: a ``*_neg_proj.pt`` file.
            model: the transformers model (or SteeredModel) that they belong to.
            layers: ids of the layers, for old files that do not name them.
            energy: share of the singular values to keep, for a file of singular vectors; projections are as they are.

        Raises:
            BankError: not such a file, a file that holds code (it is never run), or one of another model.
        """
        identity = _identity(model)
        plus, values = official_factors(path, identity, layers, energy)
        minus = {} if negative is None else official_factors(negative, identity, layers, energy)[0]
        learning = Learning(method=f"file of the authors' code ({Path(path).name})", energy=energy if values else None)
        return cls(identity, plus, minus, None, learning, suggested_gain, values)

    def to_official(self, path: str | os.PathLike[str], negative: str | os.PathLike[str] | None = None) -> None:
        """Write the projections as ``.pt`` files that the authors' code reads.

        Its hooks map layers by place: give it the ``layers`` setting of the file. A negative file halves the positive gain.

        Raises:
            BankError: a negative file is asked for and the bank has no negative part for every layer.
        """
        if negative is not None and self.negative.keys() != self.positive.keys():
            raise BankError("the bank has no negative part for all its layers, so there is no negative file to write")
        write_projections(path, {layer: projection(u) for layer, u in self.positive.items()})
        if negative is not None:
            write_projections(negative, {layer: projection(u) for layer, u in self.negative.items()})

    # --- files

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the bank as a folder of ``bank.safetensors`` and ``bank.json``; complete or not at all.

        Raises:
            BankError: the path is a file, a folder that holds other files, or cannot be written; nothing is changed.
        """
        return write_folder(path, bank_files(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ProjectionBank:
        """Read a bank and check it whole.

        Raises:
            BankError: not a bank, another format version, or damaged; says which.
        """
        path = Path(path)
        if holds(path, "experts.json") and not holds(path, FILES[0]):
            raise BankError(f"{path} holds experts, not one bank: use load_bank")
        return cls._of_files(read_folder(path, FILES), path)

    @classmethod
    def _of_files(cls, files: Mapping[str, bytes], path: Path) -> ProjectionBank:
        content = read_bank(files, path)
        try:
            return cls(**content)
        except BankError as error:
            raise BankError(f"{path} is damaged: {error}") from None

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None, **options: Any
    ) -> ProjectionBank:
        """A bank from a folder or from the Hugging Face Hub.

        Args:
            name_or_path: a folder, or ``owner/name`` on the Hub.
            revision: branch, tag or commit on the Hub.
            options: of ``huggingface_hub.snapshot_download`` (``token``, ``cache_dir``, ``local_files_only``, ...).

        Raises:
            BankError: neither here nor on the Hub, or not a bank, or damaged.
        """
        return cls.load(find_folder(name_or_path, FILES, revision=revision, **options))

    def push_to_hub(self, repo_id: str, *, base_model: str | None = None, **options: Any) -> str:
        """Upload the bank with a generated model card, in one commit.

        Args:
            repo_id: ``owner/name``; made if it does not exist.
            base_model: name of the model on the Hub, for the card, if the bank does not know it.
            options: ``private``, ``token``, ``revision``, ``message``, ``create_pr``.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            BankError: the upload failed; says why.
        """
        card = model_card(self, repo_id, base_model).encode()
        return upload_files(repo_id, {"README.md": card, **bank_files(self)}, **options)


def _identity(model: Any) -> ModelIdentity:
    return model if isinstance(model, ModelIdentity) else identify(getattr(model, "hf_model", model))
