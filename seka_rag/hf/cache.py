"""Folders kept between runs: made by one process at a time, there completely or not at all."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``SEKA_RAG_CACHE``, else ``seka-rag`` below the user's cache folder.

    Raises:
        OSError: the user has no home folder.
    """
    given = os.environ.get("SEKA_RAG_CACHE")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seka-rag"
    except RuntimeError as error:
        raise OSError(f"{error}; set SEKA_RAG_CACHE to a folder for what is kept between runs") from None


@contextmanager
def one_process(path: Path) -> Iterator[None]:
    """While the ``with`` lasts, no other process is in one for this path; ends with the process, however that ends.

    Raises:
        OSError: the folder of the path cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that makes %s", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def make_folder(
    path: Path, write: Callable[[Path], object], is_whole: Callable[[Path], bool] = lambda path: True
) -> None:
    """Make a folder unless it is there; a second process waits for the first and finds its folder.

    A process that is killed leaves nothing at ``path``, and what it had written elsewhere is removed by the next.

    Args:
        write: writes the files into the empty folder that it is given.
        is_whole: tells a folder that can be used from a damaged one, which is made again.

    Raises:
        OSError: no room, or no permission; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.part")
    with one_process(path):
        if path.exists() and is_whole(path):
            return
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir()
            write(part)
            if path.exists():
                logger.warning("%s is damaged, and made again", path)
                shutil.rmtree(path)
            part.rename(path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
