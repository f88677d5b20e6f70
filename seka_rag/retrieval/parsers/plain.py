"""Text and Markdown, and the encoding of any text."""

from __future__ import annotations

import codecs
import re

from seka_rag.errors import DocumentError, MissingExtraError

# A mark before a blank line is a thematic break.
_FRONT_MATTER = re.compile(r"(---|\+\+\+)[^\S\n]*\n(?![^\S\n]*\n)(?:[^\n]*\n)*?\1[^\S\n]*(?:\n|$)")
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_BINARY = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\ufffe\uffff]")
_LOOKED_AT = 1 << 16  # bytes; the detector's time grows with them
#: What may be recognised. The many other encodings are rarer than the errors that trying them makes.
_CANDIDATES = """cp1252 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 cp1257 koi8_r shift_jis cp932 euc_jp gb18030 big5 cp949
    utf_16_le utf_16_be""".split()
#: Written with letters that cp1252 lacks; it often fits their texts nevertheless, with wrong letters.
_CENTRAL = frozenset(
    "Czech Slovak Polish Hungarian Croatian Slovene Romanian Turkish Estonian Lithuanian Latvian".split()
)


def parse_text(data: bytes, encoding: str | None) -> tuple[str, dict[str, object]]:
    """A text file as it is."""
    return decoded(data, encoding)


def parse_markdown(data: bytes, encoding: str | None) -> tuple[str, dict[str, object]]:
    """A Markdown file with its marks, which people read well, but without YAML or TOML front matter."""
    text, metadata = decoded(data, encoding)
    front = _FRONT_MATTER.match(text)
    return (text[front.end() :] if front else text).lstrip("\n"), metadata


def decoded(data: bytes, encoding: str | None, declared: str | None = None) -> tuple[str, dict[str, object]]:
    """The text, with ``\\n`` line ends, and the encoding as metadata if it was recognised and is not UTF-8.

    Args:
        encoding: the one to use; None to recognise it, by a byte order mark, what the file declares, UTF-8 if it is valid
            UTF-8, else by its content.
        declared: what the file says about itself.

    Raises:
        DocumentError: not of this encoding, or of none that is recognised.
        MissingExtraError: not UTF-8, and the package that recognises others is not installed.
    """
    if encoding is not None:
        return _as_lines(_strictly(data, encoding)), {}
    if mark := next((name for mark, name in _MARKS.items() if data.startswith(mark)), None):
        return _as_lines(_strictly(data, mark)), {} if mark == "utf-8" else {"encoding": mark}
    for known in (declared, "utf-8"):
        try:
            if known:
                text = data.decode(known)
                return _as_lines(text), {} if known == "utf-8" else {"encoding": codecs.lookup(known).name}
        except (UnicodeError, LookupError):
            continue
    name = _recognised(data)
    text = _strictly(data, name or "utf-8")
    if _BINARY.search(text):
        raise DocumentError(
            "is not text: it holds bytes that no text has. Convert it, or leave it out with on_error='skip'"
        )
    return _as_lines(text), {"encoding": name}


def _recognised(data: bytes) -> str | None:
    try:
        from charset_normalizer import from_bytes
    except ImportError as error:
        raise MissingExtraError("charset-normalizer", "documents") from error

    candidates = [name for name in _CANDIDATES if b"\0" in data or not name.startswith("utf")]
    end = data.rfind(b"\n", 0, _LOOKED_AT) + 1 if len(data) > _LOOKED_AT else 0
    matches = from_bytes(data[: end or _LOOKED_AT], cp_isolation=candidates)
    best = matches.best()
    western = next((m for m in matches if "cp1252" in m.could_be_from_charset), None)
    if best is None or western is None or b"\0" in data:
        return None if best is None else str(best.encoding)
    better = (best.chaos, -best.coherence) < (western.chaos, -western.coherence)
    return str(best.encoding) if better or (best.coherence and best.language in _CENTRAL) else "cp1252"


def _strictly(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except LookupError as error:
        raise DocumentError(
            f"cannot be read: encoding={encoding!r} is unknown: give a name such as 'utf-8' or 'latin-1'"
        ) from error
    except UnicodeDecodeError as error:
        guess = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
        raise DocumentError(
            f"is not {encoding}: byte {data[error.start]:#04x} at offset {error.start}. Save it as UTF-8, give its encoding "
            f"(perhaps encoding={guess!r}), or leave it out with on_error='skip'"
        ) from error


def _as_lines(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
