"""Folders kept between runs: made by one process at a time, there completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def cache_folder() -> Path:
    """``SEKA_RAG_CACHE``, else ``seka-rag`` below the user's cache folder."""
    given = os.environ.get("SEKA_RAG_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seka-rag"


def make_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Make a folder unless it is there; a second process waits for the first and finds its folder.

    A process that is killed leaves nothing at ``path``, and what it had written elsewhere is removed by the next.

    Args:
        write: writes the files into the empty folder that it is given.

    Raises:
        OSError: no room, or no permission; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir()
            write(part)
            part.rename(path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
