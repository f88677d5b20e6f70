"""Attention to look at: by passage, by head, and by token of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from seka_rag.model.attention import AttentionReading, Look
from seka_rag.text.spans import merge, overlapping
from seka_rag.views.page import View, file_name, shortened, table, view

_ROWS = 20  # most passages with a bar of their own
_KEPT = 48  # most places of the prompt that are kept for a token of the answer


def passage_attention(reading: AttentionReading) -> View:
    """How much the plain and the steered answer attend to each passage, to the question and to the rest.

    Means over the answer's tokens and the heads of the reading. Of more than twenty passages those with most attention
    have a bar, and all stand in a strip above.
    """
    plain, steered = (reading.shares(look) for look in (reading.plain, reading.steered))
    marked = _marked(reading)
    labels = [
        shortened(f"{file_name(p.source) + ': ' if p.source else ''}{reading.prompt.text[p.start : p.end]}", 70)
        for p in reading.passages
    ]
    count = len(labels)
    chosen = sorted(sorted(range(count), key=lambda i: -max(plain[0][i], steered[0][i]))[:_ROWS])
    entries: list[tuple[int | None, str, float, float, bool]] = [
        (i + 1, labels[i], plain[0][i], steered[0][i], marked[i]) for i in chosen
    ]
    entries += [(None, "the question", plain[1], steered[1], False)]
    entries += [(None, "all else: template, first token, the answer itself", plain[2], steered[2], False)]
    top = max([1e-9, *(max(e[2], e[3]) for e in entries[:-1])])
    rows = [
        {
            "number": number, "label": label, "marked": mark, "plain": f"{p:.3f}", "steered": f"{s:.3f}",
            "plain_width": round(min(200, 200 * p / top), 1), "steered_width": round(min(200, 200 * s / top), 1),
        }
        for number, label, p, s, mark in entries
    ]  # fmt: skip
    heads = len(reading.heads)
    return view(
        "passages.html.j2",
        table(
            [["passage", "plain", "steered"], *([shortened(e[1], 48), f"{e[2]:.3f}", f"{e[3]:.3f}"] for e in entries)]
        ),
        about=f"mean over the answer's tokens and the {heads} heads that turned most; highlighted passages are marked",
        rows=rows,
        strip=_strip(plain[0], steered[0], marked) if count > _ROWS else None,
    )


def head_attention(reading: AttentionReading) -> View:
    """Layers by heads: how much more each query head attends to the highlighted text than in the plain model.

    At the prompt's last token, which decides on the answer's first word. Edited heads have frames; where most
    heads are edited, those of the reading have.
    """
    before, after = (reading.to_highlights(look) for look in (reading.plain, reading.steered))
    change = after - before  # [L, Q]
    scale = max(float(change.abs().max()), 1e-6)
    layers, queries = change.shape
    framed, frames = _frames(reading, layers, queries)
    size = 14 if queries <= 40 else 8
    left, top = 34, 18
    cells = [
        {
            "x": left + head * (size + 2), "y": top + layer * (size + 2), "framed": (layer, head) in framed,
            "tone": "heat" if change[layer, head] >= 0 else "cool",
            "strength": round(abs(float(change[layer, head])) / scale, 2),
            "title": f"layer {layer}, head {head}: {before[layer, head]:.3f} to {after[layer, head]:.3f}",
        }
        for layer in range(layers) for head in range(queries)
    ]  # fmt: skip
    every = max(1, layers // 10)
    labels: list[tuple[float, float, str, str]] = [
        (left - 6, top + i * (size + 2) + size - 2, str(i), "end") for i in range(0, layers, every)
    ]
    every = max(1, queries // 9)
    labels += [(left + i * (size + 2) + size / 2, top - 5, str(i), "middle") for i in range(0, queries, every)]
    best = change.flatten().topk(min(3, change.numel())).indices.tolist()
    most = "; ".join(
        f"layer {i // queries}, head {i % queries}: {before.flatten()[i]:.2f} to {after.flatten()[i]:.2f}" for i in best
    )
    return view(
        "heads.html.j2",
        f"Attention to the highlighted text turned most in: {most}",
        title="Attention to the highlighted text, by head",
        width=left + queries * (size + 2) + 4,
        height=top + layers * (size + 2) + 4,
        size=size,
        cells=cells,
        labels=labels,
        scale=f"{scale:.2f}",
        frames=frames,
        most=f"Turned most: {most}.",
    )


def token_attention(reading: AttentionReading, *, steered: bool = True) -> View:
    """The answer, token by token: point at one and see where in the prompt the model looked when it decided on it.

    Means over the heads of the reading. For each token of the answer the forty-eight places in passages and question
    with most attention are kept, so it stays small and quick with a long prompt. What is highlighted is underlined.

    Args:
        steered: of the steered answer, or of the plain one.
    """
    look = reading.steered if steered else reading.plain
    first = min((p.start for p in reading.passages), default=reading.question[0])
    content = torch.tensor([first <= s < e <= reading.question[1] for s, e in reading.tokens.offsets])
    steps = [_step(reading, look, i, content) for i in range(len(look.pieces))]
    kept = sorted({t for step in steps for t, _ in step["at"]})
    name = "steered" if steered else "plain"
    return view(
        "tokens.html.j2",
        table([[repr(piece), step["sum"]] for piece, step in zip(look.pieces, steps, strict=True)]),
        about=f"The {name} answer; mean over the {len(reading.heads)} heads that turned most, colour relative to the "
        "strongest place. Highlighted text is underlined.",
        pieces=look.pieces,
        parts=_parts(reading, kept),
        data=steps,
    )


def _frames(reading: AttentionReading, layers: int, queries: int) -> tuple[set[tuple[int, int]], str]:
    """The query heads with frames, and what the frames say."""
    edited = reading.edited
    text = f"Rows are layers, columns query heads. The keys of {len(edited)} of {layers * queries} heads are edited"
    if not edited or 3 * len(edited) > layers * queries:
        return set(reading.heads), f"{text}; framed are the {len(reading.heads)} that turned most."
    return set(edited), f"{text}; these have frames."


def _step(reading: AttentionReading, look: Look, step: int, content: torch.Tensor) -> dict[str, Any]:
    row = look.steps[step] * content
    values, places = row.topk(min(_KEPT, len(row)))
    shares, question, rest = reading.shares(look, step)
    best = sorted(range(len(shares)), key=lambda i: -shares[i])[:3]
    passages = ", ".join(f"passage {i + 1} {shares[i]:.1%}" for i in best)
    return {
        "at": [[int(t), round(float(v), 4)] for t, v in zip(places, values, strict=True) if v > 0],
        "sum": f"Most attention: {passages or 'no passages'}; question {question:.1%}; all else {rest:.1%}",
    }


def _parts(reading: AttentionReading, kept: Sequence[int]) -> list[tuple[int | None, str, bool]]:
    """The prompt as ``(token or None, text, highlighted)``: only tokens that are looked at stand alone."""
    text, marks = reading.prompt.text, merge(reading.prompt.spans)
    edges = {0, len(text), *(edge for span in marks for edge in (span.start, span.end))}
    inside: dict[int, tuple[int, int]] = {}  # start -> token, end; tokens of one character share a place
    for token in kept:
        start, end = reading.tokens.offsets[token]
        if start < end:
            inside.setdefault(start, (token, end))
            edges |= {start, end}
    found: list[tuple[int | None, str, bool]] = []
    until, current = 0, None  # type: int, int | None
    for start, end in pairwise(sorted(edges)):
        if start in inside:
            current, until = inside[start]
        elif start >= until:
            current = None
        found.append((current, text[start:end], any(overlapping(marks, start, end))))
    return found


def _marked(reading: AttentionReading) -> list[bool]:
    marks = merge(reading.prompt.spans)
    return [any(overlapping(marks, p.start, p.end)) for p in reading.passages]


def _strip(plain: Sequence[float], steered: Sequence[float], marked: Sequence[bool]) -> dict[str, object]:
    count, width = len(plain), 1000.0
    step, top = width / count, max([1e-9, *plain, *steered])

    def bars(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(round(i * step, 2), round(40 * v / top, 2)) for i, v in enumerate(values)]

    return {
        "width": int(width), "step": round(max(0.6, 0.85 * step), 2), "count": count,
        "plain": bars(plain), "steered": bars(steered),
        "marked": [round((i + 0.5) * step, 2) for i, m in enumerate(marked) if m],
    }  # fmt: skip
