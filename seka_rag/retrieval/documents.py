"""Reading a file or a folder into documents."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from seka_rag.errors import DocumentError
from seka_rag.retrieval.formats import FORMATS


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one file.

    Args:
        text: its text, with ``\\n`` line ends.
        source: its path as it was asked for, with forward slashes.
        metadata: what else is known: ``title`` (html), ``pages`` and ``page_starts`` (pdf; the character at which
            each page begins).
    """

    text: str
    source: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)


def read_documents(
    path: str | os.PathLike[str],
    *,
    encoding: str = "utf-8",
    on_error: Literal["raise", "skip"] = "raise",
) -> list[Document]:
    """Read a .txt, .md, .html, .htm or .pdf file, or all of them in a folder and the folders below it.

    Args:
        path: the file or folder. In a folder, files and folders whose names begin with a dot are left out.
        encoding: of text and html files; a byte order mark is taken off.
        on_error: what to do with a file that cannot be read: "raise", or "skip" it with a warning.

    Returns:
        At least one document, in the order of their paths.

    Raises:
        DocumentError: the path does not exist, has no file of these kinds, or a file cannot be read, has other bytes
            than the encoding allows, or has no text; with "skip", if no file is left.
    """
    if on_error not in ("raise", "skip"):
        raise DocumentError(f"on_error={on_error!r}: choose 'raise' or 'skip'")
    documents: list[Document] = []
    problems: list[DocumentError] = []
    for file in _files(Path(path)):
        try:
            documents.append(_read(file, encoding))
        except DocumentError as error:
            if on_error == "raise":
                raise
            problems.append(error)
            warnings.warn(f"skipped: {error}", stacklevel=2)
    if not documents:
        raise DocumentError(f"none of the {len(problems)} files in {path} could be read; the last: {problems[-1]}")
    return documents


def _files(path: Path) -> list[Path]:
    kinds = ", ".join(FORMATS)
    if path.is_dir():
        found = sorted((f for f in _walk(path) if f.suffix.lower() in FORMATS), key=lambda f: f.parts)
        if not found:
            raise DocumentError(f"folder {path} has no file that can be read: put {kinds} files in it")
        return found
    if not path.exists():
        raise DocumentError(f"{path} does not exist: check the path (relative ones count from {Path.cwd()})")
    if path.suffix.lower() not in FORMATS:
        raise DocumentError(f"{path} is of an unknown kind {path.suffix!r}: convert it to one of {kinds}")
    return [path]


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DocumentError(f"cannot look into {error.filename}: {error.strerror}") from error

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root, name) for name in files if not name.startswith("."))


def _read(file: Path, encoding: str) -> Document:
    try:
        text, metadata = FORMATS[file.suffix.lower()](file, encoding)
    except OSError as error:
        raise DocumentError(f"cannot open {file}: {error.strerror or error}") from error
    if not text.strip():
        hint = "; if its pages are scanned images, run text recognition (OCR) first" if file.suffix == ".pdf" else ""
        raise DocumentError(f"{file} has no text{hint}")
    return Document(text, file.as_posix(), metadata)
