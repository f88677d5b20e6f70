"""Reading a file or a folder into documents."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seka_rag.errors import DocumentError
from seka_rag.retrieval.confined import ConfinedParsers
from seka_rag.retrieval.files import find_files, read_file
from seka_rag.retrieval.formats import FORMATS
from seka_rag.text.surrogates import mended


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one file.

    Args:
        text: its text, with ``\\n`` line ends.
        source: its path as it was asked for, with forward slashes.
        metadata: what else is known: ``title`` (html), ``pages`` and ``page_starts`` (pdf; the character at which
            each page begins), ``encoding`` (a text that is not UTF-8).
    """

    text: str
    source: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict, hash=False)


def read_documents(
    path: str | os.PathLike[str],
    *,
    encoding: str | None = None,
    on_error: Literal["raise", "skip"] | Callable[[DocumentError], None] = "raise",
    timeout: float = 60.0,
) -> list[Document]:
    """Read a .txt, .md, .html, .htm or .pdf file, or all of them in a folder and the folders below it.

    In a folder, files and folders whose names begin with a dot are left out. So are, each with a warning that names it,
    links that lead out of the folder, pipes and devices: they are not the folder's documents. Of a page or PDF file, only
    text that a reader sees is read.

    Args:
        path: the file or folder.
        encoding: of text and html files; by default it is recognised.
        on_error: what to do with a file that cannot be read: "raise", "skip" it with a warning, or call a function with the
            error and go on.
        timeout: seconds that one html or pdf file may take; some are made to take for ever.

    Returns:
        At least one document, in the order of their paths.

    Raises:
        DocumentError: the path does not exist, has no file of these kinds, or a file cannot be read, has other bytes
            than the encoding allows, or has no text; unless they raise, if no file is left.
        MissingExtraError: a kind of file that needs ``seka-rag[documents]``.
    """
    if on_error not in ("raise", "skip") and not callable(on_error):
        raise DocumentError(f"on_error={on_error!r}: choose 'raise' or 'skip', or give a function of the error")
    if not timeout > 0:
        raise DocumentError(f"timeout={timeout!r}: give a number of seconds above 0")
    files, foreign, closed = find_files(Path(path), FORMATS)
    problems: list[DocumentError] = []

    def skip(error: DocumentError) -> None:
        problems.append(error)
        if callable(on_error):
            on_error(error)
        else:
            warnings.warn(f"skipped: {error}", stacklevel=3)

    for error in foreign:
        skip(error)
    documents: list[Document] = []
    with ConfinedParsers(timeout) as confined:
        work: list[Path | DocumentError] = [*closed, *files]
        for file in work:
            try:
                if isinstance(file, DocumentError):
                    raise file
                documents.append(_read(file, encoding, confined))
            except DocumentError as error:
                if on_error == "raise":
                    raise
                skip(error)
    if not documents:
        raise DocumentError(f"none of the {len(problems)} files in {path} could be read; the last: {problems[-1]}")
    return documents


def _read(file: Path, encoding: str | None, confined: ConfinedParsers) -> Document:
    form, data = FORMATS[file.suffix.lower()], read_file(file)
    try:
        text, metadata = form.parse(data, encoding, confined)
    except DocumentError as error:
        raise DocumentError(f"{file} {error}") from error
    text = mended(text)
    if not text.strip():
        raise DocumentError(f"{file} has no text{form.hint}")
    return Document(text, file.as_posix(), metadata)
