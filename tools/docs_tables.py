"""A hook of mkdocs: tables that can be read at any width. What they say is not changed.

Intervals stand in one piece, long names in code are broken only where their parts end, words get room beside columns of
numbers, and the benchmarks' long tables are closed at first.
"""

from __future__ import annotations

import re
from typing import Any

_TABLE = re.compile(r"<table>.*?</table>", re.S)
_CELL = re.compile(r"<td([^>]*)>(.*?)</td>", re.S)
_CODE = re.compile(r"<code>([^<]*)</code>")
_INTERVAL = re.compile(r"\[-?[\d.]+, -?[\d.]+\]|\(-?[\d.]+-[\d.]+\)")
_PART = re.compile(r"(?<=[/_,=])(?=[^/_,=\s])|(?<=[a-z]\.)(?=[a-z])")  # where a part of a name ends
_SHORT = 20  # characters of a name that is never broken
_ROWS, _COLUMNS = 16, 6  # a table with more of both is folded


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """The page's HTML with its tables so."""
    folds = page.file.src_uri.startswith("benchmarks/")
    return _TABLE.sub(lambda m: table(m[0], folds), content)


def table(html: str, folds: bool) -> str:
    """One table; ``folds``: a long and wide one is closed at first."""
    rows, columns = html.count("<tr>") - 1, html.count("<th>")
    html = _CELL.sub(lambda m: _cell(m[1], m[2]), html)
    if folds and rows > _ROWS and columns >= _COLUMNS:
        return f"<details><summary>The whole table: {rows} rows</summary>{html}</details>"
    return html


def _cell(attributes: str, inside: str) -> str:
    inside = _INTERVAL.sub(r'<span class="interval">\g<0></span>', inside)
    inside = _CODE.sub(lambda m: _name(m[1]), inside)
    words = re.findall(r"[^\W\d_]{3,}", re.sub(r"<[^>]*>", "", inside))  # units and numbers need no room
    kind = ' class="words"' if len(words) > 2 and "interval" not in inside else ""
    return f"<td{attributes}{kind}>{inside}</td>"


def _name(code: str) -> str:
    if len(code) <= _SHORT:
        return f'<code class="short">{code}</code>'
    return f"<code>{_PART.sub('<wbr>', code)}</code>"
