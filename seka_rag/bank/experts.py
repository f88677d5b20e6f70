"""Several banks of one model, by name: the experts among which AdaSEKA chooses."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from seka_rag.bank.base import gain_of, stored_method, without_gain
from seka_rag.bank.card import expert_card
from seka_rag.bank.checks import kept_columns
from seka_rag.bank.files import read_header
from seka_rag.bank.folders import holds, read_folder, write_folder
from seka_rag.bank.hub import find_folder, upload_files
from seka_rag.bank.projections import ProjectionBank
from seka_rag.bank.storage import FILES, bank_files
from seka_rag.errors import BankError
from seka_rag.hf.identity import ModelIdentity
from seka_rag.ops.routing import LayerExperts

FORMAT_VERSION = 2
_JSON = "experts.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # also the name of a folder, so nothing that could leave it


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format_version: int
    gains: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(min_length=1)
    digests: dict[str, str]
    steering: dict[str, object]


class ExpertBank:
    """Named banks of one model. It does not change: ``add``, ``remove`` and ``rename`` return a new one.

    Args:
        experts: name -> bank; names are lower-case letters, digits, ``-`` and ``_``.
        gains: name -> gain of that expert, which multiplies the overall gain; 1 where not given.
        suggested_gain: overall gain to start from; by default the mean of those banks that suggest SEKA, 0.5 if none does.
        steering: the method to start with, in stored form; AdaSEKA at ``suggested_gain`` if nothing else is given.

    Raises:
        BankError: no expert, a bad name or gain, or banks of different models.
    """

    def __init__(
        self,
        experts: Mapping[str, ProjectionBank],
        *,
        gains: Mapping[str, float] | None = None,
        suggested_gain: float | None = None,
        steering: Mapping[str, object] | None = None,
    ) -> None:
        if not experts:
            raise BankError("an expert bank needs at least one expert")
        for name in experts:
            if not _NAME.fullmatch(name):
                raise BankError(f"expert name {name!r}: use lower-case letters, digits, '-' and '_' (at most 64)")
        unknown = set(gains or {}) - set(experts)
        if unknown:
            raise BankError(f"gains for experts that are not there: {', '.join(sorted(unknown))}")
        self._experts = dict(experts)
        self.gains = {name: float((gains or {}).get(name, 1.0)) for name in experts}
        if not all(map(math.isfinite, self.gains.values())):
            raise BankError(f"gains must be finite: {self.gains}")
        first, *others = experts
        for name in others:
            try:
                experts[first].model.check(experts[name].model)
            except BankError as error:
                raise BankError(f"experts {first!r} and {name!r} are of different models: {error}") from None
        suggested = [bank.suggested_gain for bank in experts.values() if bank.steering["method"] == "Seka"]
        gain = fmean(suggested or [0.5]) if suggested_gain is None else float(suggested_gain)
        self.steering = stored_method("AdaSeka", steering, gain)

    # --- what it holds

    @property
    def model(self) -> ModelIdentity:
        """Identity of the model."""
        return next(iter(self._experts.values())).model

    @property
    def suggested_gain(self) -> float:
        """The gain of the suggested method; 1 if it has none."""
        return gain_of(self.steering)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._experts)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that any expert has."""
        return tuple(sorted({layer for bank in self._experts.values() for layer in bank.positive}))

    @cached_property
    def digest(self) -> str:
        """A short name for exactly this content."""
        content = [(name, bank.digest, self.gains[name]) for name, bank in self._experts.items()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def __getitem__(self, name: str) -> ProjectionBank:
        if name not in self._experts:
            raise BankError(f"no expert {name!r}; there are {', '.join(self.names)}")
        return self._experts[name]

    def __contains__(self, name: object) -> bool:
        return name in self._experts

    def __len__(self) -> int:
        return len(self._experts)

    def __repr__(self) -> str:
        return f"ExpertBank({self.model.model_type}, {', '.join(self.names)}, digest {self.digest})"

    def layer_experts(self, layer: int, top_k: int) -> LayerExperts | None:
        """The experts of one layer with their ``top_k`` leading columns, or None if no expert has it.

        A bank without singular values (made of given projections) has no leading columns: all of them are used, each
        with value 1.
        """
        m = self.model
        columns = []
        for bank in self._experts.values():
            factor = bank.positive.get(layer)
            if factor is None:
                columns.append((torch.zeros(m.heads, m.head_dim, 0), torch.zeros(m.heads, 0)))
            elif layer in bank.singular_values:
                columns.append((factor[..., :top_k], bank.singular_values[layer][:, :top_k]))
            else:
                columns.append((factor, kept_columns(factor).float()))
        width = max(f.shape[-1] for f, _ in columns)
        pad = torch.nn.functional.pad
        factors = torch.stack([pad(f, (0, width - f.shape[-1])) for f, _ in columns], 2)
        values = torch.stack([pad(s, (0, width - s.shape[-1])) for _, s in columns], 1)
        heads = (values > 0).any(-1).any(-1).nonzero().flatten()
        return LayerExperts(layer, self.names, heads, factors[heads], values[heads]) if len(heads) else None

    # --- changes

    def add(self, name: str, bank: ProjectionBank, *, gain: float = 1.0) -> ExpertBank:
        """With one more expert.

        Raises:
            BankError: the name is taken, or the bank is of another model.
        """
        if name in self:
            raise BankError(f"there is an expert {name!r} already; remove or rename it first")
        return self._with({**self._experts, name: bank}, {**self.gains, name: gain})

    def remove(self, name: str) -> ExpertBank:
        """Without an expert.

        Raises:
            BankError: there is none of that name, or it is the last one.
        """
        self[name]
        return self._with(
            {n: b for n, b in self._experts.items() if n != name}, {n: g for n, g in self.gains.items() if n != name}
        )

    def rename(self, old: str, new: str) -> ExpertBank:
        """With an expert under another name, in the same place.

        Raises:
            BankError: there is none of the old name, or the new one is taken or bad.
        """
        self[old]
        if new in self and new != old:
            raise BankError(f"there is an expert {new!r} already")
        return self._with(
            {new if n == old else n: b for n, b in self._experts.items()},
            {new if n == old else n: g for n, g in self.gains.items()},
        )

    def _with(self, experts: dict[str, ProjectionBank], gains: dict[str, float]) -> ExpertBank:
        return ExpertBank(experts, gains=gains, steering=self.steering)

    # --- files

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a folder of ``experts.json`` and one bank folder an expert; complete or not at all.

        Raises:
            BankError: the path is a file, a folder that holds other files, or cannot be written; nothing is changed.
        """
        return write_folder(path, self._files(), "an expert bank")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ExpertBank:
        """Read an expert bank and check it whole.

        Raises:
            BankError: not an expert bank, another format version, or damaged; says which.
        """
        path = Path(path)
        older = {1: partial(without_gain, usual="AdaSeka")}
        files = read_folder(path, [_JSON])
        while True:
            header = read_header(files[_JSON], path / _JSON, _Header, FORMAT_VERSION, older)
            bad = [name for name in header.gains if not _NAME.fullmatch(name)]
            if bad:  # before any of them is used as a path
                raise BankError(f"{path / _JSON} is damaged: expert names {bad}")
            known, files = files[_JSON], read_folder(path, expert_files(header.gains))
            if files[_JSON] == known:  # else saved anew in between, perhaps with other names
                break
        experts = {}
        for name in header.gains:
            own = {file: files[f"{name}/{file}"] for file in FILES}
            experts[name] = ProjectionBank._of_files(own, path / name)
        changed = [name for name, bank in experts.items() if bank.digest != header.digests.get(name)]
        if changed:
            raise BankError(f"{path}: the banks of {', '.join(changed)} are not those that were saved")
        return cls(experts, gains=header.gains, steering=header.steering)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None, **options: Any
    ) -> ExpertBank:
        """An expert bank from a folder or from the Hugging Face Hub; arguments as for ``ProjectionBank``.

        Raises:
            BankError: neither here nor on the Hub, or not an expert bank, or damaged.
        """
        return cls.load(find_folder(name_or_path, expert_files("*"), revision=revision, **options))

    def push_to_hub(self, repo_id: str, *, base_model: str | None = None, **options: Any) -> str:
        """Upload all experts with a generated model card, in one commit; arguments as for ``ProjectionBank``.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            BankError: the upload failed; says why.
        """
        card = expert_card(self, repo_id, base_model).encode()
        return upload_files(repo_id, {"README.md": card, **self._files()}, **options)

    def _files(self) -> dict[str, bytes]:
        header = _Header(
            format_version=FORMAT_VERSION,
            gains=self.gains,
            digests={name: bank.digest for name, bank in self._experts.items()},
            steering=self.steering,
        )
        files = {_JSON: f"{header.model_dump_json(indent=2)}\n".encode()}
        for name, bank in self._experts.items():
            files |= {f"{name}/{file}": data for file, data in bank_files(bank).items()}
        return files


def expert_files(names: Iterable[str]) -> list[str]:
    """The files of an expert bank with these names, below its folder."""
    return [_JSON, *(f"{name}/{file}" for name in names for file in FILES)]


def load_bank(
    name_or_path: str | os.PathLike[str], *, revision: str | None = None, **options: Any
) -> ProjectionBank | ExpertBank:
    """Read whichever kind of bank a folder, or a repository of the Hub, holds.

    Args:
        name_or_path, revision, options: as for ``ProjectionBank.from_pretrained``.

    Raises:
        BankError: neither here nor on the Hub, not a bank, or damaged; or both kinds in one place.
    """
    folder = find_folder(name_or_path, [*FILES, *expert_files("*")], revision=revision, **options)
    if not holds(folder, _JSON):
        return ProjectionBank.load(folder)
    if holds(folder, FILES[0]):
        raise BankError(
            f"{name_or_path} holds a bank and an expert bank: use ProjectionBank.from_pretrained or ExpertBank.from_pretrained"
        )
    return ExpertBank.load(folder)
