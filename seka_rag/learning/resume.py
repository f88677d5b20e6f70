"""Steps of a long piece of work, kept in a folder, so that a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file, save
from torch import Tensor

from seka_rag.bank import ProjectionBank
from seka_rag.bank.folders import holds, write_file
from seka_rag.bank.storage import JSON
from seka_rag.errors import SettingError

logger = logging.getLogger(__name__)
T = TypeVar("T")
_RUN = "run.json"
_JSON, _TENSORS, _BANK = _STEPS = (".step.json", ".step.safetensors", ".step.bank")


class Steps:
    """What was computed so far. Each step is one file that is written whole or not at all.

    Args:
        folder: made if it is not there; None keeps nothing. A folder of a run with other settings is emptied, and the log
            says so.
        run: all that the steps depend on, as plain data.

    Raises:
        SettingError: the folder holds files that are none of ours, or cannot be made.
    """

    def __init__(self, folder: Path | None, run: Mapping[str, object]) -> None:
        self.folder = folder
        if folder is None:
            return
        header = json.dumps(dict(run), sort_keys=True, indent=1)
        path = folder / _RUN
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a file, or no permission
            raise SettingError(f"{folder} is to hold steps of an unfinished run: {error.strerror}") from None
        if not path.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise SettingError(f"{folder} holds other files: steps of an unfinished run are kept there; move them away")
        old = path.read_text(encoding="utf-8") if path.exists() else header
        if old == header:
            if done := len(_files(folder)):
                logger.info("goes on with the %d steps in %s", done, folder)
        else:
            logger.warning("%s is of a run with other settings (%s): starts anew", folder, _differing(old, header))
            _clear(folder)  # before the new header: a kill in between must not leave old steps under it
        write_file(path, header.encode())

    def json(self, name: str, make: Callable[[], T]) -> T:
        """Plain data, computed unless it was kept."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}{_JSON}"
        if not path.exists():
            write_file(path, json.dumps(make()).encode())
        found: T = json.loads(path.read_text(encoding="utf-8"))
        return found

    def tensors(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Named tensors, computed unless they were kept."""
        if (found := self.read(name)) is None:
            found = dict(make())
            self.write(name, found)
        return found

    def read(self, name: str) -> dict[str, Tensor] | None:
        """Named tensors that were kept, or None."""
        path = None if self.folder is None else self.folder / f"{name}{_TENSORS}"
        return load_file(path) if path is not None and path.exists() else None

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep named tensors, in place of earlier ones of this name."""
        if self.folder is not None:
            write_file(self.folder / f"{name}{_TENSORS}", save({k: t.contiguous() for k, t in tensors.items()}))

    def bank(self, name: str, make: Callable[[], ProjectionBank]) -> ProjectionBank:
        """A bank, learned unless it was kept."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}{_BANK}"
        if not holds(path, JSON):  # the folder alone may be what a kill left
            make().save(path)
        return ProjectionBank.load(path)


def remove_steps(folder: Path) -> None:
    """Remove all that was kept in a folder, and the folder if nothing else is in it: the work is done and saved."""
    if (folder / _RUN).exists():
        _clear(folder)
        (folder / _RUN).unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.name.endswith(_STEPS) and not p.name.startswith(".")]


def _clear(folder: Path) -> None:
    parts = [p for p in folder.iterdir() if p.name.startswith(".") and (".step." in p.name or _RUN in p.name)]
    for path in [*_files(folder), *parts]:  # parts: what a kill left of a file
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def short_digest(content: object) -> str:
    """A name for plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _differing(old: str, new: str) -> str:
    try:
        first, second = json.loads(old), json.loads(new)
        return ", ".join(sorted(k for k in {**first, **second} if first.get(k) != second.get(k)))
    except (ValueError, AttributeError):
        return "unreadable"
