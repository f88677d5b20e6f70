"""Tables of the docs' pages: what is folded, and what stands in one piece. Their words stay."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from tools.docs_tables import on_page_content


def html(rows, columns, cell="1"):
    head = f"<tr>{'<th>a</th>' * columns}</tr>"
    row = f"<tr>{f'<td>{cell}</td>' * columns}</tr>"
    return f"<table>\n<thead>\n{head}</thead><tbody>{row * rows}</tbody></table>"


def shown(content, page="benchmarks/index.md"):
    return on_page_content(content, SimpleNamespace(file=SimpleNamespace(src_uri=page)), None, None)


@pytest.mark.parametrize(
    ("page", "rows", "columns", "folded"),
    [
        ("benchmarks/index.md", 17, 6, True),
        ("benchmarks/index.md", 16, 6, False),
        ("benchmarks/index.md", 17, 5, False),
        ("reference/families.md", 100, 8, False),
    ],
)
def test_only_long_and_wide_tables_of_benchmarks_are_folded(page, rows, columns, folded):
    found = shown(f"<p>a</p>{html(rows, columns)}<p>b</p>", page)
    assert (f"<p>a</p><details><summary>The whole table: {rows} rows</summary><table>" in found) == folded
    assert found.count("</details>") == folded
    assert found.endswith("<p>b</p>")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (".8 [.7, .9]", '<td>.8 <span class="interval">[.7, .9]</span></td>'),
        ("1.0 (0.98-1.02)", '<td>1.0 <span class="interval">(0.98-1.02)</span></td>'),
        ("three words or more", '<td class="words">three words or more</td>'),
        ("two words", "<td>two words</td>"),
        ("31 ms, 5 s, 858 MiB", "<td>31 ms, 5 s, 858 MiB</td>"),
        ("<code>a/b_c.py</code>", '<td><code class="short">a/b_c.py</code></td>'),
        ("<code>tests/some_file.py, 0.5</code>", "<code>tests/<wbr>some_<wbr>file.<wbr>py, 0.5</code></td>"),
    ],
)
def test_cells(cell, expected):
    content = html(1, 1, cell)
    assert expected in shown(content)
    assert re.sub("<[^>]*>", "", shown(content)) == re.sub("<[^>]*>", "", content)


def test_nothing_else_is_touched():
    content = "<p>[.1, .2] <code>a/b</code></p><table class='x'><td>[.1, .2]</td></table>"
    assert shown(content) == content
