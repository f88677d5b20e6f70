"""Pictures of banks: the relevance gap of every head and which are kept; which experts a query chooses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seka_rag.bank import ProjectionBank
from seka_rag.errors import MissingExtraError, SettingError


def draw_bank(bank: ProjectionBank, path: str | os.PathLike[str]) -> Path:
    """Write a picture (png, svg or pdf, by its ending) of layers by heads: colour is the gap, the number the kept rank."""
    figure_class, rectangle = matplotlib_classes()
    path = picture_path(path)
    gap, ranks = bank.gap.numpy(), bank.ranks
    layers, heads = gap.shape
    figure = figure_class(figsize=(max(5.0, 0.5 * heads + 3.2), max(2.6, 0.34 * layers + 1.6)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(gap, aspect="auto", cmap="YlGnBu", vmin=0)
    figure.colorbar(image, label="relevance gap (mean l2)")
    for layer in range(layers):
        for head in range(heads):
            if ranks[layer, head] > 0:
                dark = gap[layer, head] > 0.6 * gap.max()
                axes.add_patch(
                    rectangle((head - 0.47, layer - 0.46), 0.94, 0.92, fill=False, edgecolor="#d95f02", linewidth=1.6)
                )
                axes.text(
                    head, layer, str(int(ranks[layer, head])), ha="center", va="center", fontsize=8,
                    color="white" if dark else "black",
                )  # fmt: skip
    axes.set_xticks(range(heads), [str(h) for h in range(heads)])
    axes.set_yticks(range(layers), [str(i) for i in range(layers)])
    axes.set_xlabel("key-value head")
    axes.set_ylabel("layer")
    kept = int((ranks > 0).sum())
    axes.set_title(f"{bank.model.model_type}: {kept} of {bank.head_count} heads steered (number: rank)", fontsize=10)
    figure.savefig(path, dpi=150)
    return path


def draw_calibration(bank: ProjectionBank, path: str | os.PathLike[str]) -> Path:
    """Write a picture (png, svg or pdf, by its ending) of what a calibration tried: following against disturbance.

    Raises:
        SettingError: the bank was not calibrated.
    """
    if bank.calibration is None:
        raise SettingError("this bank was not calibrated, so there is no curve to draw: see seka-rag calibrate")
    figure_class, _ = matplotlib_classes()
    path = picture_path(path)
    figure = figure_class(figsize=(7.0, 4.6), layout="constrained")
    axes = figure.subplots()
    trials = bank.calibration.trials
    names = list(dict.fromkeys(t.steering["method"] if t.steering else "plain" for t in trials))
    for name, marker in zip(names, "sov^DP*X<>", strict=False):
        some = [t for t in trials if (t.steering["method"] if t.steering else "plain") == name]
        axes.plot(
            [t.disturbance for t in some], [t.following for t in some], marker, label=name, markersize=8, alpha=0.8
        )
    chosen = next((t for t in trials if t.steering == dict(bank.steering)), None)
    if chosen is not None:
        axes.plot(
            [chosen.disturbance],
            [chosen.following],
            "o",
            markersize=16,
            fillstyle="none",
            color="black",
            label="chosen",
        )
    axes.axvline(bank.calibration.budget, color="grey", linestyle=":", label="budget")
    axes.set_xlabel("disturbance by unrelated highlights: KL(plain, steered), nats")
    axes.set_ylabel("conflicts that follow the evidence")
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(f"{bank.model.model_type}: {trials[0].examples} examples of each kind", fontsize=10)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    return path


def draw_routing(weights: Sequence[Mapping[str, float]], labels: Sequence[str], path: str | os.PathLike[str]) -> Path:
    """Write a picture (png, svg or pdf, by its ending) of queries by experts: colour and number are the mean weight.

    Args:
        weights: for each query, name of the expert -> weight, as in ``SteeringReport.experts``.
        labels: a short text for each query.
    """
    figure_class, _ = matplotlib_classes()
    path = picture_path(path)
    names = list(weights[0])
    values = [[row[name] for name in names] for row in weights]
    largest = max(1.0, *(abs(v) for row in values for v in row))
    figure = figure_class(figsize=(3.6 + 1.1 * len(names), 1.6 + 0.45 * len(labels)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, aspect="auto", cmap="RdBu", vmin=-largest, vmax=largest)
    figure.colorbar(image, label="weight")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            strong = abs(value) > 0.6 * largest
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if strong else "black")
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set_yticks(range(len(labels)), [t if len(t) <= 48 else f"{t[:47]}…" for t in labels])
    axes.set_title("experts that each query chooses (mean over the steered heads)", fontsize=10)
    figure.savefig(path, dpi=150)
    return path


def matplotlib_classes() -> Any:
    """The classes of a figure and of a rectangle; without pyplot, which keeps a state for the whole process."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    return Figure, Rectangle


def picture_path(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise SettingError(f"{path}: a picture ends in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise SettingError(f"{path}: there is no folder {path.parent}")
    return path
