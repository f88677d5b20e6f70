"""The report of a folder of results: one page without anything from outside, and tables for the docs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seka_rag.bank.folders import write_file
from seka_rag.bench.curves import Entry, Figures, Line, lines
from seka_rag.bench.plots import curve_plot, position_plot
from seka_rag.bench.rows import RATES
from seka_rag.bench.tasks import TASKS
from seka_rag.bench.tasks.base import Curve, Task
from seka_rag.errors import RecordError
from seka_rag.views.page import page_template

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Section:
    """What the report says of one task and model.

    Attributes:
        rows, comparisons: of this task and model, as in the files.
    """

    task: Task
    model: str
    rows: Rows
    comparisons: Rows

    @cached_property
    def figures(self) -> Figures:
        """Values of each entry, in the order of the rows."""
        found: dict[Entry, dict[str, float]] = {}
        for row in self.rows:
            found.setdefault(Entry.of(row["method"], row["settings"]), {})[row["metric"]] = row["value"]
        return found

    @cached_property
    def cells(self) -> dict[tuple[Entry, str], Mapping[str, Any]]:
        """The row of each entry and metric."""
        return {(Entry.of(row["method"], row["settings"]), row["metric"]): row for row in self.rows}

    @property
    def columns(self) -> list[str]:
        """Those metrics of the task's table that there are; of the task's groups at other positions, these."""
        there = {row["metric"] for row in self.rows}
        named = [c for c in self.task.columns if c in there and not c.startswith("position-")]
        positions = {m for m in there if m.startswith("position-") and m.endswith(f".{self.task.by_position}")}
        return [*named[:1], *sorted(positions, key=lambda m: int(m.split(".")[0][9:])), *named[1:]]

    @property
    def curves(self) -> list[tuple[Curve, list[Line]]]:
        """The curves that have something to show."""
        found = [(curve, lines(self.figures, curve)) for curve in self.task.curves]
        return [(curve, some) for curve, some in found if some]

    def contest(self, curve: Curve, some: Sequence[Line]) -> str | None:
        """The bank's method beside the best other one at the last level of harm, on the same units; None if not compared."""
        level = curve.levels[-1]
        gold = {line.name: line for line in some if all(e.highlight in (None, "gold") for e in line.entries)}
        default = gold.pop("default", None)
        default = gold.pop("suggested", default)
        if default is None:
            return None
        for other in sorted(gold.values(), key=lambda line: -line.at(level)):
            both = [line.best(level) for line in (default, other)]
            keys = [f"{e.method} {e.stored}" for e in both if e is not None]
            for c in self.comparisons:
                if c["metric"] == curve.following and sorted([c["first"], c["second"]]) == sorted(keys):
                    only = [c["only_first"], c["only_second"]][:: 1 if c["first"] == keys[0] else -1]
                    return (
                        f"Paired, at their best strengths up to {level:g}: {named(keys[0])} is ahead on {only[0]}, "
                        f"{named(keys[1])} on {only[1]}, of {c['n']} (exact test, p = {c['p']:.2g})."
                    )
        return None

    def cell(self, entry: Entry, metric: str) -> str:
        """A figure with its interval; empty if there is none."""
        row = self.cells.get((entry, metric))
        if row is None:
            return ""
        rate = metric.split(".")[-1] in RATES
        shown = [f"{row[k]:.2f}" if row[k] is not None else "?" for k in ("value", "low", "high")]
        shown = [s.replace("0.", ".", 1) if s.startswith("0.") else s for s in shown] if rate else shown
        return f"{shown[0]} [{shown[1]}, {shown[2]}]"

    def count(self, metric: str) -> str:
        """How many units a metric has, over the entries."""
        counts = sorted({row["n"] for row in self.rows if row["metric"] == metric})
        return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def sections(folder: Path) -> list[Section]:
    """What the files of a folder hold.

    Raises:
        RecordError: no results there, or files that are none of ours.
    """
    try:
        rows, comparisons = (
            json.loads((folder / name).read_text(encoding="utf-8")) for name in ("results.json", "comparisons.json")
        )
        keys = list(dict.fromkeys((row["task"], row["model"]) for row in rows))
        found = []
        for key in keys:
            mine = [[r for r in every if (r["task"], r["model"]) == key] for every in (rows, comparisons)]
            if key[0] in TASKS:
                found.append(Section(TASKS[key[0]], key[1], *mine))
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{folder} holds no results of seka-rag bench that can be read: {error}") from error


def write_report(folder: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``tables.md`` beside the results.

    Raises:
        RecordError: no results there.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    found = sections(folder)
    page = write_file(folder / "report.html", html(found).encode())
    return page, write_file(folder / "tables.md", markdown(found).encode())


def html(found: Sequence[Section]) -> str:
    """One page with tables and plots, everything inside."""
    template = page_template("bench/report.html.j2")
    from markupsafe import Markup  # comes with jinja2

    plots = {
        id(section): [Markup(curve_plot(some, curve)) for curve, some in section.curves]
        + ([Markup(position_plot(section.figures, section.task.by_position))] if section.task.by_position else [])
        for section in found
    }
    page: str = template.render(sections=[(section, plots[id(section)]) for section in found], named=named)
    return page


def named(key: str) -> str:
    """A variant's key as a line of a table names it."""
    entry = Entry.of_key(key)
    return f"{entry.line} ({entry.detail})" if entry.detail else entry.line


def markdown(found: Sequence[Section]) -> str:
    """The tables and the values at equal harm, for the docs."""
    parts = []
    for section in found:
        columns = section.columns
        heads = [f"{c} (n = {section.count(c)})" for c in columns]
        table = [_line(["method", "highlighted", *heads]), _line(["---"] * (2 + len(columns)))]
        table += [
            _line([named(f"{e.method} {e.stored}"), e.highlight or "", *(section.cell(e, c) for c in columns)])
            for e in section.figures
        ]
        parts.append(f"### {section.task.name}, {section.model}\n\n{section.task.about}\n\n" + "\n".join(table))
        for curve, some in section.curves:
            harm = f"loss of {curve.harm}" if curve.loss else curve.harm
            rows = [
                _line(["method", *(f"at {level:g}" for level in curve.levels)]),
                _line(["---"] * (1 + len(curve.levels))),
            ]
            rows += [_line([line.name, *(f"{line.at(level):.2f}" for level in curve.levels)]) for line in some]
            parts.append(f"{curve.following} at equal harm ({harm}):\n\n" + "\n".join(rows))
            contest = section.contest(curve, some)
            parts += [contest] if contest else []
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
