"""Curves with intervals: figures of benchmarks, and any others, in colours of the page they are on."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from seka_rag.errors import RecordError, SettingError
from seka_rag.views.banks import matplotlib_classes, picture_path
from seka_rag.views.page import View, table, view

# Drawn with these; in HTML each becomes a colour of the page. Lines differ by marker and dash as well as by colour.
_INK, _GRID = "#1c2430", "#d5dae2"
_COLOURS = ("#5b6b80", "#c2410c", "#1d4ed8", "#176f43", "#7c3aed", "#b42318", "#0e7490", "#a16207")
_DARK = ("#94a3b8", "#fb923c", "#60a5fa", "#4ade80", "#c4b5fd", "#f87171", "#22d3ee", "#fde047")
_MARKERS, _DASHES = "os^Dv*XP", ("-", "-", "--", "-.", ":", "--", "-.", ":")


class Point(NamedTuple):
    """One figure, with the bounds of its interval where they are known and a name that is written beside it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    name: str = ""


@dataclass(frozen=True, repr=False)
class Chart(View):
    """A view that can be saved as a picture, too.

    Attributes:
        figure: of matplotlib.
    """

    figure: Any = field(compare=False)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it: .html as it is in a notebook; .svg, .png or .pdf as a picture on white.

        Raises:
            SettingError: another ending, or no such folder.
        """
        if Path(path).suffix == ".html":
            return super().save(path)
        target = picture_path(path)
        self.figure.savefig(target, dpi=150, metadata={} if target.suffix == ".png" else {"Date": None})
        return target


def chart(
    series: Mapping[str, Sequence[Point]],
    *,
    x: str,
    y: str,
    title: str = "",
    y_range: tuple[float, float] | None = None,
    ticks: Sequence[float] | None = None,
    levels: Sequence[float] = (),
) -> Chart:
    """Lines through points, by name.

    Args:
        x, y: what the axes are, with units.
        y_range: ends of the vertical axis.
        ticks: where numbers stand on the horizontal axis, which then counts them at equal steps.
        levels: where dotted lines stand, such as a budget of harm.

    Raises:
        SettingError: nothing to draw.
        MissingExtraError: without matplotlib or jinja2.
    """
    series = {name: points for name, points in series.items() if points}
    if not series:
        raise SettingError("there is nothing to draw: no line has a point")
    figure_class, _ = matplotlib_classes()
    figure = figure_class(figsize=(7.6, 4.2), layout="constrained")
    axes = figure.subplots()
    place = {value: i for i, value in enumerate(ticks)} if ticks else None
    for i, (name, points) in enumerate(series.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        xs = [place[p.x] if place else p.x for p in points]
        xs = [v + (i - (len(series) - 1) / 2) * 0.06 for v in xs] if place else xs  # intervals beside each other
        ys = [p.y for p in points]
        axes.plot(xs, ys, marker=_MARKERS[i % 8], linestyle=_DASHES[i % 8], color=colour, label=name, markersize=6)
        for at, point in zip(xs, points, strict=True):
            if point.low is not None and point.high is not None:
                axes.plot([at, at], [point.low, point.high], color=colour, linewidth=1.1)
            if point.name:
                axes.annotate(point.name, (at, point.y), (5, -9), textcoords="offset points", fontsize=8, color=_INK)
    for level in levels:
        axes.axvline(level, color=_INK, linewidth=0.8, linestyle=":")
    if place and ticks:
        axes.set_xticks(range(len(ticks)), [f"{t:g}" for t in ticks])
    if y_range:
        axes.set_ylim(*y_range)
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    if title:
        axes.set_title(title, fontsize=11, color=_INK, loc="left")
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.legend(fontsize=9, frameon=False, labelcolor=_INK)
    rows = [[name, f"{p.x:g}", f"{p.y:.3g}", _interval(p)] for name, points in series.items() for p in points]
    shown = view(
        "chart.html.j2",
        table([["line", x, y, "95% interval"], *rows]),
        svg=_themed(figure),
        head=["", x, y, "95% interval"],
        rows=rows,
        dark=list(zip(_names(), _DARK, strict=True)),
        light=list(zip(_names(), _COLOURS, strict=True)),
    )
    return Chart(shown.html, shown.text, figure)


def curves(
    results: str | os.PathLike[str] | Sequence[Mapping[str, Any]],
    following: str,
    harm: str,
    *,
    task: str | None = None,
    levels: Sequence[float] = (),
) -> Chart:
    """The trade-off of a benchmark: following against harm, a line for each method through its strengths.

    Args:
        results: the file ``results.json`` that ``seka-rag bench`` writes, or its rows.
        following, harm: names of metrics, such as ``"correction.right"`` and ``"irrelevant.kl"``.
        task: of which the rows are taken, where the file has several.

    Raises:
        RecordError: no row has these metrics, or rows of several tasks and none was named.
    """
    given = json.loads(Path(results).read_text(encoding="utf-8")) if isinstance(results, str | os.PathLike) else results
    rows = [row for row in given if task is None or row["task"] == task]
    found = sorted({row["task"] for row in rows if row["metric"] in (following, harm)})
    if len(found) != 1:
        raise RecordError(f"metrics {following} and {harm} are in tasks {found}: name one of them by task=")
    values: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if "seed" not in row["settings"]:
            values.setdefault((row["method"], json.dumps(row["settings"], sort_keys=True)), {})[row["metric"]] = row
    series: dict[str, list[Point]] = {}
    for (method, settings), metrics in values.items():
        if following in metrics and harm in metrics:
            row, against = metrics[following], metrics[harm]
            strength = next((v for k, v in json.loads(settings).items() if k in ("gain", "bias", "weight")), None)
            point = Point(
                against["value"], row["value"], row["low"], row["high"], "" if strength is None else f"{strength:g}"
            )
            series.setdefault(method, []).append(point)
    if not series:
        raise RecordError(f"no row has both {following} and {harm}")
    ordered = {name: sorted(points, key=lambda p: float(p.name or 0)) for name, points in series.items()}
    return chart(
        ordered,
        x=f"harm: {harm}",
        y=f"following: {following}",
        title=f"{found[0]}: numbers are strengths",
        levels=levels,
    )


def _interval(point: Point) -> str:
    if point.low is None or point.high is None or not math.isfinite(point.low):
        return ""
    return f"{point.low:.3g} to {point.high:.3g}"


def _names() -> list[str]:
    return [f"--line{i}" for i in range(len(_COLOURS))]


def svg_text(figure: Any, **options: object) -> str:
    """A figure of matplotlib as an SVG element, the same bytes for the same figure."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "seka-rag"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, **options)
    return out.getvalue()[out.getvalue().index("<svg") :]


def _themed(figure: Any) -> str:
    """The figure as SVG whose colours are variables of the page."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        text = svg_text(figure, transparent=True)
    for colour, name in [(_INK, "--ink"), (_GRID, "--line"), *zip(_COLOURS, _names(), strict=True)]:
        text = text.replace(colour, f"var({name})")
    return text
