"""The kinds of files that can be read."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from seka_rag.errors import MissingExtraError
from seka_rag.retrieval.confined import ConfinedParsers
from seka_rag.retrieval.parsers.plain import parse_markdown, parse_text

_HERE = {"plain.parse_text": parse_text, "plain.parse_markdown": parse_markdown}


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        parser: module and name of a function in ``seka_rag.retrieval.parsers``: (content, encoding) -> text and metadata. It
            raises DocumentError with a message that continues "the file ...".
        hint: what to say of a file without text.
        packages: that the parser imports, of ``seka-rag[documents]``.
    """

    parser: str
    hint: str = ""
    packages: tuple[str, ...] = ()

    def parse(self, data: bytes, encoding: str | None, confined: ConfinedParsers) -> tuple[str, dict[str, object]]:
        """Text and metadata of a file's content; plain text is read here, all else in a process of its own.

        Raises:
            DocumentError: it cannot be read.
            MissingExtraError: a package is not installed.
        """
        if missing := next((name for name in self.packages if find_spec(name) is None), None):
            raise MissingExtraError(missing, "documents")
        here = _HERE.get(self.parser)
        return here(data, encoding) if here else confined.parse(self.parser, data, encoding)


_HTML = Format(
    "html.parse_html", "; a page that scripts fill has none without them", ("lxml", "cssselect2", "tinycss2")
)
#: File name ending -> format. A new kind is one function and one line here.
FORMATS: dict[str, Format] = {
    ".txt": Format("plain.parse_text"),
    ".md": Format("plain.parse_markdown"),
    ".html": _HTML,
    ".htm": _HTML,
    ".pdf": Format("pdf.parse_pdf", "; if its pages are scanned images, run text recognition (OCR) first", ("pypdf",)),
}
