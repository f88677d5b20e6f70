"""The text of a file, by its kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from seka_rag.errors import DocumentError, MissingExtraError

_FRONT_MATTER = re.compile(r"(---|\+\+\+)[^\S\n]*\n(?:[^\n]*\n)*?\1[^\S\n]*(?:\n|$)")
_UNSEEN = frozenset("head script style noscript template".split())
_BLOCKS = frozenset(
    """address article aside blockquote body dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5
    h6 header hr li main nav ol p pre section summary table tr ul""".split()
)


def read_text(file: Path, encoding: str) -> tuple[str, dict[str, Any]]:
    """A text file as it is."""
    return _decoded(file, encoding), {}


def read_markdown(file: Path, encoding: str) -> tuple[str, dict[str, Any]]:
    """A Markdown file with its marks, which people read well, but without YAML or TOML front matter."""
    text = _decoded(file, encoding)
    front = _FRONT_MATTER.match(text)
    return (text[front.end() :] if front else text).lstrip("\n"), {}


def read_html(file: Path, encoding: str) -> tuple[str, dict[str, Any]]:
    """What a reader of the page sees: no scripts, styles, comments or hidden elements; blocks become paragraphs."""
    try:
        from bs4 import BeautifulSoup
    except ImportError as error:
        raise MissingExtraError("beautifulsoup4", "documents") from error

    # as a stream: a short str could be taken for a file name, with a warning
    soup = BeautifulSoup(StringIO(_decoded(file, encoding)), "html.parser")
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", re.sub(r"[ \t]+", " ", "".join(_visible(soup))))
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    return re.sub(r"\n{3,}", "\n\n", text).strip(), {"title": title} if title else {}


def read_pdf(file: Path, encoding: str) -> tuple[str, dict[str, Any]]:
    """The text layer of a PDF file, a line break between pages; ``encoding`` does not apply."""
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError
    except ImportError as error:
        raise MissingExtraError("pypdf", "documents") from error

    data = file.read_bytes()
    try:
        reader = _open_pdf(PdfReader, data, file)
        pages = [page.extract_text().strip() for page in reader.pages]
    except DocumentError:
        raise
    except DependencyError as error:
        raise DocumentError(f"{file} is encrypted: {error}; or save an unprotected copy") from error
    except Exception as error:  # a damaged file can raise anything inside the parser; which it is does not matter
        raise DocumentError(f"{file} is not a readable PDF ({type(error).__name__}: {error}): save it anew") from error
    starts = [0]
    for page in pages:
        starts.append(starts[-1] + len(page) + 1)
    return "\n".join(pages), {"pages": len(pages), "page_starts": tuple(starts[:-1])}


#: File name ending -> reader. A new kind is one function and one line here.
FORMATS: dict[str, Callable[[Path, str], tuple[str, dict[str, Any]]]] = {
    ".txt": read_text,
    ".md": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".pdf": read_pdf,
}


def _decoded(file: Path, encoding: str) -> str:
    data = file.read_bytes()
    try:
        text = data.decode(encoding)
    except LookupError as error:
        raise DocumentError(f"encoding={encoding!r} is unknown: give a name such as 'utf-8' or 'latin-1'") from error
    except UnicodeDecodeError as error:
        guess = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
        raise DocumentError(
            f"{file} is not {encoding}: byte {data[error.start]:#04x} at offset {error.start}. Save it as UTF-8, give "
            f"its encoding (perhaps encoding={guess!r}), or leave it out with on_error='skip'"
        ) from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _open_pdf(reader_class: Any, data: bytes, file: Path) -> Any:
    reader = reader_class(BytesIO(data))
    # many files are encrypted with an empty password, only to forbid printing: those open
    if reader.is_encrypted and not reader.decrypt(""):
        raise DocumentError(f"{file} is protected by a password: save an unprotected copy, or leave it out")
    return reader


def _visible(soup: Any) -> list[str]:
    """The text nodes of a page in order, with line breaks at blocks. A stack: pages may nest deeper than Python."""
    from bs4.element import CData, NavigableString, Tag

    out: list[str] = []
    stack: list[Any] = [soup]
    while stack:
        node = stack.pop()
        if isinstance(node, str) and not isinstance(node, NavigableString):
            out.append(node)
        elif isinstance(node, Tag):
            if node.name in _UNSEEN or node.has_attr("hidden"):
                continue
            if node.name == "br":
                out.append("\n")
            border = "\n\n" if node.name in _BLOCKS else " " if node.name in ("td", "th") else ""
            stack += [border, *reversed(node.contents), border]
        elif type(node) in (NavigableString, CData):  # not comments, doctypes, scripts
            keep_lines = node.find_parent("pre") is not None
            out.append(str(node) if keep_lines else re.sub(r"\s+", " ", node))
    return out
