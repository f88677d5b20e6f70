"""The files of a folder, and their content: regular files that lie in it, and nothing that it leads to."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from seka_rag.errors import DocumentError

_LARGEST = 1 << 29  # bytes


def find_files(path: Path, kinds: Collection[str]) -> tuple[list[Path], list[DocumentError], list[DocumentError]]:
    """The files of these kinds in a folder and the folders below it, or the one file that the path names.

    Files and folders whose names begin with a dot are left out.

    Returns:
        Files in the order of their paths; what does not belong to the folder (links out of it, pipes, devices), and folders
        that cannot be looked into, each as the error that names it.

    Raises:
        DocumentError: the path does not exist, is of another kind, or a folder has nothing of these kinds.
    """
    listed = ", ".join(kinds)
    if not path.is_dir():
        if not path.exists():
            raise DocumentError(f"{path} does not exist: check the path (relative ones count from {Path.cwd()})")
        if path.suffix.lower() not in kinds:
            raise DocumentError(f"{path} is of an unknown kind {path.suffix!r}: convert it to one of {listed}")
        return [path], [], []
    files: list[Path] = []
    foreign: list[DocumentError] = []
    closed: list[DocumentError] = []
    top = path.resolve()

    def note(error: OSError) -> None:
        closed.append(DocumentError(f"cannot look into {error.filename}: {error.strerror}"))

    for root, folders, names in os.walk(path, onerror=note):  # does not follow links to folders
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [Path(root, name) for name in folders if Path(root, name).is_symlink()]
        seen = [Path(root, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() in kinds]
        for file in (*links, *seen):
            if file.is_symlink() and not file.resolve().is_relative_to(top):
                foreign.append(DocumentError(f"{file} leads out of the folder"))
            elif file not in links and _may_be_read(file):
                files.append(file)
            elif file not in links:
                foreign.append(DocumentError(f"{file} is no regular file"))
    if not files and not foreign and not closed:
        raise DocumentError(f"folder {path} has no file that can be read: put {listed} files in it")
    return sorted(files, key=lambda f: f.parts), foreign, closed


def _may_be_read(file: Path) -> bool:
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except OSError:  # a link to nothing, which reading it names
        return True


def read_file(file: Path) -> bytes:
    """The content of a regular file.

    Raises:
        DocumentError: it cannot be opened, is no regular file (a pipe would never end), or is too large.
    """
    try:
        number = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(number, "rb") as opened:
            state = os.fstat(number)
            if not stat.S_ISREG(state.st_mode):
                raise DocumentError(f"{file} is no regular file")
            if state.st_size > _LARGEST:
                raise DocumentError(
                    f"{file} has {state.st_size >> 20} MB: split it into files of at most {_LARGEST >> 20}"
                )
            return opened.read(_LARGEST)
    except OSError as error:
        raise DocumentError(f"cannot open {file}: {error.strerror or error}") from error
