"""A picture of a bank: the relevance gap of every head, and which heads are kept."""

from __future__ import annotations

import os
from pathlib import Path

from seka_rag.bank import ProjectionBank


def draw_bank(bank: ProjectionBank, path: str | os.PathLike[str]) -> Path:
    """Write a picture (png, svg or pdf, by its ending) of layers by heads: colour is the gap, the number the kept rank."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    gap, ranks = bank.gap.numpy(), bank.ranks
    layers, heads = gap.shape
    figure = Figure(figsize=(max(5.0, 0.5 * heads + 3.2), max(2.6, 0.34 * layers + 1.6)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(gap, aspect="auto", cmap="YlGnBu", vmin=0)
    figure.colorbar(image, label="relevance gap (mean l2)")
    for layer in range(layers):
        for head in range(heads):
            if ranks[layer, head] > 0:
                dark = gap[layer, head] > 0.6 * gap.max()
                axes.add_patch(
                    Rectangle((head - 0.47, layer - 0.46), 0.94, 0.92, fill=False, edgecolor="#d95f02", linewidth=1.6)
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
    axes.set_title(f"{bank.model.model_type}: {kept} of {layers * heads} heads steered (number: rank)", fontsize=10)
    path = Path(path)
    figure.savefig(path, dpi=150)
    return path
