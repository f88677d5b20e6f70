"""The text layer of a PDF file, without text that its pages do not show."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

from pypdf import PdfReader
from pypdf.errors import DependencyError
from pypdf.generic import ArrayObject, ByteStringObject

from seka_rag.errors import DocumentError
from seka_rag.text.surrogates import mended

_SHOWN = {b"Tj": 0, b"TJ": 0, b"'": 0, b'"': 2}  # operator -> which of its operands is text
_PAINTS = {b"f", b"F", b"f*", b"B", b"B*", b"b", b"b*"}
_INVISIBLE = (3, 7)  # text render modes that draw nothing
_WHITE = 0.97
_SMALL = 1.0  # points
_SCAN = 0.5  # share of a page that a picture covers if it is a scan


def parse_pdf(data: bytes, encoding: str | None) -> tuple[str, dict[str, object]]:
    """The text of all pages, a line break between them; ``encoding`` does not apply.

    Left out is text that is invisible, white on white, too small to be read or off the page. A scanned page whose whole
    text is invisible is read: that text is what was recognised in the picture.

    Raises:
        DocumentError: damaged, encrypted, or protected by a password.
    """
    try:
        reader = PdfReader(BytesIO(data))
        # many files are encrypted with an empty password, only to forbid printing: those open
        if reader.is_encrypted and not reader.decrypt(""):
            raise DocumentError("is protected by a password: save an unprotected copy, or leave it out")
        pages = [mended(_text(page)).strip() for page in reader.pages]
    except DocumentError:
        raise
    except DependencyError as error:
        raise DocumentError(f"is encrypted: {error}; or save an unprotected copy") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything inside the parser; which it is does not matter
        raise DocumentError(f"is not a readable PDF ({type(error).__name__}: {error}): save it anew") from error
    starts = [0]
    for page in pages:
        starts.append(starts[-1] + len(page) + 1)
    return "\n".join(pages), {"pages": len(pages), "page_starts": starts[:-1]}


def _text(page: Any) -> str:
    shown = _Shown(page)
    text = page.extract_text(visitor_operand_before=shown.before, visitor_operand_after=shown.after)
    if not text.strip() and shown.is_scan:
        shown = _Shown(page, recognised=True)
        text = page.extract_text(visitor_operand_before=shown.before, visitor_operand_after=shown.after)
    return str(text)


@dataclass(frozen=True)
class _Pen:
    """What the operators of a page have set for the text to come."""

    mode: int = 0
    white: bool = False
    size: float = 12.0


class _Shown:
    """Follows the operators of a page and empties those that show text which nobody sees.

    Args:
        recognised: keep text that is invisible.
    """

    def __init__(self, page: Any, recognised: bool = False) -> None:
        box = page.mediabox
        self._left, self._bottom, self._right, self._top = map(float, (box.left, box.bottom, box.right, box.top))
        self._hidden_modes = () if recognised else _INVISIBLE
        self._pen, self._pens = _Pen(), list[_Pen]()
        self._drawn: list[tuple[_Pen, list[_Pen], int]] = []  # forms and pictures that are being drawn
        self._operators = 0
        self._painted = False  # something that is not white: what is behind text is then not known
        self._pictured = 0.0
        self._invisible = False

    @property
    def is_scan(self) -> bool:
        """A picture covers the page, and there is invisible text."""
        return self._invisible and self._pictured >= _SCAN * (self._right - self._left) * (self._top - self._bottom)

    def before(self, operator: bytes, operands: list[Any], cm: list[float], tm: list[float]) -> None:
        self._operators += 1
        if operator in _SHOWN:
            if self._is_hidden(cm, tm) and len(operands) > (at := _SHOWN[operator]):
                operands[at] = ArrayObject() if operator == b"TJ" else ByteStringObject(b"")
        elif operator == b"q":
            self._pens.append(self._pen)
        elif operator == b"Q":
            self._pen = self._pens.pop() if self._pens else self._pen
        elif operator == b"Do":
            self._drawn.append((self._pen, self._pens, self._operators))
            self._pens = []
        elif operator in _PAINTS or operator == b"sh":
            self._painted |= not self._pen.white or operator == b"sh"
        elif operator == b"INLINE IMAGE":
            self._painted = True
            self._pictured += _area(cm)
        else:
            self._pen = _changed(self._pen, operator, operands)

    def after(self, operator: bytes, operands: list[Any], cm: list[float], tm: list[float]) -> None:
        if operator == b"Do" and self._drawn:
            self._pen, self._pens, began = self._drawn.pop()
            if began == self._operators:  # nothing was drawn in it: a picture
                self._painted = True
                self._pictured += _area(cm)

    def _is_hidden(self, cm: list[float], tm: list[float]) -> bool:
        if self._pen.mode in _INVISIBLE:
            self._invisible = True
        if self._pen.mode in self._hidden_modes or (self._pen.white and self._pen.mode in (0, 4) and not self._painted):
            return True
        if 0 < self._pen.size * math.sqrt(_area(tm) * _area(cm)) < _SMALL or self._pen.size == 0:
            return True
        if self._drawn:  # a form has a place of its own
            return False
        x, y = (tm[4] * cm[i] + tm[5] * cm[i + 2] + cm[i + 4] for i in (0, 1))
        return not (self._bottom - 20 <= y <= self._top + 20 and self._left - 500 <= x <= self._right)


def _changed(pen: _Pen, operator: bytes, operands: list[Any]) -> _Pen:
    numbers = [float(o) for o in operands if isinstance(o, int | float)]
    if operator == b"Tr" and numbers:
        return replace(pen, mode=int(numbers[0]))
    if operator == b"Tf" and numbers:
        return replace(pen, size=abs(numbers[-1]))
    if operator in (b"g", b"rg", b"k", b"sc", b"scn") and len(numbers) == len(operands):
        light = all(n <= 1 - _WHITE for n in numbers) if len(numbers) == 4 else all(n >= _WHITE for n in numbers)
        # one number is grey only with "g": it may be the amount of an ink
        return replace(pen, white=bool(numbers) and light and (operator == b"g" or len(numbers) > 1))
    return replace(pen, white=False) if operator in (b"cs", b"sc", b"scn") else pen


def _area(matrix: list[float]) -> float:
    return abs(matrix[0] * matrix[3] - matrix[1] * matrix[2])
