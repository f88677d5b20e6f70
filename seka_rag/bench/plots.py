"""Plots of a report, as SVG text that is the same for the same figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from seka_rag.bench.curves import Figures, Line, best_of_lines
from seka_rag.bench.tasks.base import Curve
from seka_rag.views.banks import matplotlib_classes
from seka_rag.views.charts import svg_text

_POSITION = re.compile(r"position-(\d+)\.(\w+)")
_MARKERS = "os^Dvp*Xhd"
_NATS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)


def curve_plot(lines: Sequence[Line], curve: Curve) -> str:
    """Following against harm, a line for each method, its strengths as points; points alone of what has no strength."""
    figure, axes = _figure()
    for i, line in enumerate(lines):
        style = {"marker": _MARKERS[i % len(_MARKERS)], "markersize": 5, "linewidth": 1.2 if line.joined else 0}
        axes.plot([p[0] for p in line.points], [p[1] for p in line.points], label=line.name, **style)
    for level in curve.levels:
        axes.axvline(level, color="#999", linewidth=0.8, linestyle=":")
    if curve.loss:
        axes.set_xlabel(f"harm: loss of {curve.harm}")
    else:  # small and great disturbances are both to be seen
        most = max((p[0] for line in lines for p in line.points), default=0.0)
        axes.set_xscale("symlog", linthresh=_NATS[1])
        axes.set_xlim(left=-0.01)
        axes.set_xticks(ticks := [x for x in _NATS if x <= max(most, _NATS[1])], [f"{x:g}" for x in ticks])
        axes.set_xlabel(f"harm: {curve.harm} (nats; logarithmic beyond {_NATS[1]})")
    axes.set_ylabel(f"following: {curve.following}")
    return _svg(figure, axes)


def position_plot(figures: Figures, measure: str) -> str:
    """A measure by the position of the gold passage: the plain model, and of each method the strength that is best overall."""
    figure, axes = _figure()
    for i, entry in enumerate(best_of_lines(figures, f"all.{measure}")):
        found = {int(m[1]): v for k, v in figures[entry].items() if (m := _POSITION.fullmatch(k)) and m[2] == measure}
        name = f"{entry.line}, {entry.detail}" if entry.detail else entry.line
        axes.plot(sorted(found), [found[k] for k in sorted(found)], marker=_MARKERS[i % len(_MARKERS)], label=name[:60])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("index of the passage that answers")
    axes.set_ylabel(measure)
    axes.set_ylim(-0.02, 1.02)
    return _svg(figure, axes)


def _figure() -> tuple[Any, Any]:
    figure_class, _ = matplotlib_classes()
    figure = figure_class(figsize=(8.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.grid(color="#ddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any, axes: Any) -> str:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return svg_text(figure)
