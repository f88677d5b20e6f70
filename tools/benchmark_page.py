"""Publishes results of ``seka-rag bench``: their rows into docs/benchmarks/data, tables and plots into the page.

``python -m tools.benchmark_page FOLDER...`` takes the results of these folders in place of those of the same task that were
published, with the command and the cost that ``run.json`` in each folder names; without a folder, the page is written
again from what is published. Only the metrics that tables and plots show are kept.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from seka_rag.bench.plots import curve_plot, position_plot
from seka_rag.bench.report import Section, markdown, sections
from seka_rag.bench.tasks import TASKS

DOCS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
DATA = DOCS / "data"
_PLACE = re.compile(r"(<!-- results: (?P<run>[\w-]+) -->\n).*?(<!-- end of results -->)", re.S)


def publish(folder: Path, data: Path = DATA) -> None:
    """Take over the shown rows of a folder, under its name."""
    target, run = data / folder.name, (folder / "run.json").read_text(encoding="utf-8")
    target.mkdir(parents=True, exist_ok=True)
    (target / "run.json").write_text(run, encoding="utf-8")
    for name in ("results.json", "comparisons.json"):
        rows = [r for r in json.loads((folder / name).read_text(encoding="utf-8")) if r["metric"] in _shown(r["task"])]
        lines = ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
        (target / name).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def _shown(task: str) -> set[str]:
    of = TASKS[task]
    metrics = {*of.columns, *(m for c in of.curves for m in (c.following, c.harm))}
    return metrics | {f"position-{k}.{of.by_position}" for k in range(100)} if of.by_position else metrics


def page(text: str, data: Path = DATA) -> str:
    """The page with tables from the published rows between its marks."""
    return _PLACE.sub(lambda m: m[1] + _results(data / m["run"]) + m[3], text)


def wrapped(command: str, width: int = 80) -> str:
    """A command in lines of a page's width, broken after spaces and commas, that a shell reads as one."""
    lines, line = [], ""
    for piece in re.findall(r"[^\s,]+,?\s*|,", command):
        if line and len(line) + len(piece.rstrip()) > width - 2:
            lines.append(line + "\\")
            line = "    " if line.endswith(" ") else ""
        line += piece
    return "\n".join([*lines, line])


def _results(folder: Path) -> str:
    run: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    commands = "\n".join(map(wrapped, run["commands"]))
    cost = run["cost"]
    head = f"<!-- not run: {cost} -->\n```sh\n{commands}\n```\n\nCost: {cost}.\n\n"
    found = sections(folder)
    plots = [f"![{s.task.name}: {title}](data/{folder.name}/{file})\n\n" for s in found for file, title, _ in _plots(s)]
    return head + "".join(plots) + markdown(found) + "\n"


def _plots(section: Section) -> list[tuple[str, str, str]]:
    """File, title and SVG of each plot."""
    name = section.task.name
    found = [
        (
            f"{name}-{i}.svg",
            f"{curve.following} against {'loss of ' if curve.loss else ''}{curve.harm}",
            curve_plot(some, curve),
        )
        for i, (curve, some) in enumerate(section.curves)
    ]
    if section.task.by_position:
        svg = position_plot(section.figures, section.task.by_position)
        found.append((f"{name}-position.svg", f"{section.task.by_position} by position", svg))
    return found


def main(folders: list[str]) -> None:
    for folder in map(Path, folders):
        publish(folder)
    for published in sorted(p for p in DATA.iterdir() if p.is_dir()):
        for section in sections(published):
            for file, _, svg in _plots(section):
                (published / file).write_text(svg, encoding="utf-8")
    index = DOCS / "index.md"
    index.write_text(page(index.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
