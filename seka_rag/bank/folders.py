"""Folders that change as a whole: whoever reads, whenever a writer dies, finds the old files or the new ones.

A new version is written to a hidden folder inside, which one rename commits; then its files take the places of the old
ones, one by one. A reader that finds a committed version reads there, and reads again what changed under its eyes; the
next writer ends what a killed one began.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from seka_rag.errors import BankError

_PART, _NEXT, _DONE = _HIDDEN = (".part", ".next", ".done")  # being written, committed, no longer needed
_PATIENCE = 60.0  # seconds for another process to save, which takes it a moment


def write_file(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write one file, in place of an earlier one; complete or not at all.

    Raises:
        BankError: no room, or no permission.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(part, data)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return path


def check_target(path: Path, files: Collection[str], kind: str = "a bank") -> None:
    """Refuse a place where a folder of these files cannot be written; before long work, so that none is lost.

    Raises:
        BankError: a file, a folder that holds other files, or one that may not be written to.
    """
    if path.is_file():
        raise BankError(f"{path} is a file; {kind} is saved as a folder")
    held: set[str] = set()
    for root, folders, names in os.walk(path):  # passes over what a writer removes meanwhile
        if Path(root) == path:
            folders[:] = [name for name in folders if name not in _HIDDEN]
        held.update(Path(root, name).relative_to(path).as_posix() for name in names)
    if foreign := sorted(held.difference(files)):
        raise BankError(f"{path} holds other files ({', '.join(foreign[:5])}); give an empty or new folder")
    above = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise BankError(f"{path} cannot be written: no permission to write in {above}; give another folder")


def write_folder(path: str | os.PathLike[str], files: Mapping[str, bytes], kind: str = "a bank") -> Path:
    """Write a folder of exactly these files, in place of an earlier one; complete or not at all.

    Args:
        files: relative name (``a.json``, ``part/a.json``) -> content.
        kind: what it holds, for messages.

    Raises:
        BankError: the path is a file, a folder that holds other files, or cannot be written (no room, no permission);
            nothing is changed.
    """
    path = Path(path)
    check_target(path, files, kind)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with _locked(path):
            _finish(path)
            try:
                for name, data in files.items():
                    (path / _PART / name).parent.mkdir(parents=True, exist_ok=True)
                    _write(path / _PART / name, data)
                os.rename(path / _PART, path / _NEXT)  # from here on it is the new version
            except BaseException:
                with suppress(OSError):
                    _remove(path / _PART)
                    if new:
                        path.rmdir()
                raise
            with suppress(OSError):  # what is left to do, readers do without, and the next writer does
                _finish(path)
    return path


def read_folder(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The content of files of a folder, all of one version.

    Raises:
        BankError: one is missing or cannot be read.
    """
    names = list(names)
    deadline = time.monotonic() + _PATIENCE
    while True:
        before = _state(path, names)
        version = path / _NEXT if before[0] else path
        found: dict[str, bytes] = {}
        missing = None
        for name in names:
            try:
                found[name] = (version / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                missing = missing or path / name
            except OSError as error:
                raise BankError(f"{path} cannot be read: {error}") from None
        if _state(path, names) == before:
            if missing is None:
                return found
            raise BankError(f"{path} is not a bank: {missing} is missing")
        if time.monotonic() > deadline:
            raise BankError(f"{path} cannot be read: others have been writing to it for {_PATIENCE:g} s")


def holds(path: Path, name: str) -> bool:
    """Whether a folder has a file of this name."""
    return any((version / name).exists() for version in (path / _NEXT, path))


def _finish(path: Path) -> None:
    """Put a committed version in its place, and remove what writers left that were killed."""
    _remove(path / _PART)
    _remove(path / _DONE)
    committed = path / _NEXT
    if committed.exists():
        for file in [f for f in committed.rglob("*") if f.is_file()]:
            name = file.relative_to(committed)
            place, part = path / name, path / _PART / name
            place.parent.mkdir(parents=True, exist_ok=True)
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, part)  # needs no room
            except OSError:
                _write(part, file.read_bytes())
            os.replace(part, place)
        os.rename(committed, path / _DONE)
        _remove(path / _PART)
        _remove(path / _DONE)


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # a rename that outlives a loss of power must not name an empty file


def _state(path: Path, names: Iterable[str]) -> list[tuple[int, int, int] | None]:
    """What changes whenever a writer changes something: the committed version, or if there is none, each file."""
    committed = _identity(path / _NEXT)
    return [committed] if committed else [None, *(_identity(path / name) for name in names)]


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BankError(f"{path} cannot be written: {error.strerror or error}; nothing was changed") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The folder, made if it is not there, for one writer at a time of all threads and processes."""
    path.mkdir(exist_ok=True)
    if sys.platform == "win32":  # a folder cannot be locked there
        from filelock import FileLock

        with FileLock(path.with_name(f".{path.name}.lock"), timeout=_PATIENCE):
            path.mkdir(exist_ok=True)
            yield
        return
    deadline = time.monotonic() + _PATIENCE
    while True:
        path.mkdir(exist_ok=True)
        try:
            folder = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # a writer that failed has removed it
            continue
        try:
            while not _lock(folder):
                if time.monotonic() > deadline:
                    raise BankError(f"{path} cannot be written: another process has been saving for {_PATIENCE:g} s")
                time.sleep(0.01)
            if path.exists() and os.path.samestat(os.fstat(folder), path.stat()):
                yield
                return
        finally:
            os.close(folder)


def _lock(folder: int) -> bool:
    import fcntl

    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True
