"""A view: a piece of HTML that stands alone in a notebook, in a file and on a page of the docs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from seka_rag.errors import MissingExtraError, SettingError
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import merge


@dataclass(frozen=True)
class View:
    """Something to look at. A notebook shows it when it is the value of a cell.

    It needs nothing from outside: styles and scripts are in it, light and dark follow the page it is on. Every text in it is
    escaped, so markup in a passage stays text.

    Attributes:
        html: the piece of HTML.
        text: the same in words, for where HTML is not shown.
    """

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as a page of its own.

        Raises:
            SettingError: not a name that ends in .html, or no such folder.
        """
        path = Path(path)
        if path.suffix != ".html":
            raise SettingError(f"{path}: a view is saved as .html")
        if not path.parent.is_dir():
            raise SettingError(f"{path}: there is no folder {path.parent}")
        path.write_text(_template("page.html.j2").render(body=self.html), encoding="utf-8")
        return path


def view(template: str, text: str, **values: object) -> View:
    """A view from a template of this folder; its id is the digest of what it shows, so equal views are equal bytes."""
    body = _template(template).render(values)
    name = f"seka-{hashlib.sha256(body.encode()).hexdigest()[:12]}"
    return View(_template("frame.html.j2").render(name=name, body=body.strip()), text)


def pieces(prompt: Prompt) -> Iterator[tuple[str, float]]:
    """The text of a prompt, cut where highlights begin and end: ``(text, weight)``."""
    last = 0
    for span in merge(prompt.spans):
        if last < span.start:
            yield prompt.text[last : span.start], 0.0
        yield prompt.text[span.start : span.end], span.weight
        last = span.end
    if last < len(prompt):
        yield prompt.text[last:], 0.0


def table(rows: Iterable[Iterable[object]]) -> str:
    """Rows as lines of text, columns aligned."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def file_name(source: str) -> str:
    """A source as it is shown: of a whole path only the file, since pages are passed on."""
    return Path(source).name if Path(source).is_absolute() else source


def shortened(text: str, length: int = 60) -> str:
    """One line of a text, cut where it is too long."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def page_template(name: str) -> Any:
    """The template of a page of another room, such as ``demo/page.html.j2``; texts in it are escaped.

    Raises:
        MissingExtraError: jinja2 is not installed. Get the template before the work that its page shows.
    """
    return _jinja().Environment(autoescape=True).from_string((files("seka_rag") / name).read_text(encoding="utf-8"))


@cache
def _template(name: str) -> Any:
    jinja2 = _jinja()
    folder = files("seka_rag") / "views" / "templates"
    sources = {
        entry.name: entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.name.endswith(".j2")
    }
    return jinja2.Environment(
        loader=jinja2.DictLoader(sources),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def _jinja() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "plots") from error
    return jinja2
