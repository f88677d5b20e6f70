"""Highlights to look at: what was marked, as HTML in which all text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

from llama_index.core.schema import MetadataMode, NodeWithScore

from seka_rag import Prompt
from seka_rag.frameworks import KEY, as_passage, read_marks

_BOX = "white-space:pre-wrap;border-left:3px solid #bbb;margin:.4em 0;padding:.2em .8em"
_MARK = "background:hsl(46,100%,{light:.0f}%);color:#1c2430;padding:0 .1em"  # dark on light, on any page


def marked_html(prompt: Prompt) -> str:
    """A prompt whose highlights are ``<mark>``, the heavier the darker; weight and source show on pointing at one."""
    parts = []
    edges = sorted({0, len(prompt), *(edge for s in prompt.spans for edge in (s.start, s.end))})
    for start, end in pairwise(edges):
        over = [s for s in prompt.spans if s.start <= start and end <= s.end and s.weight > 0]
        text = escape(prompt.text[start:end])
        if over:
            best = max(over, key=lambda s: s.weight)
            told = escape(f"weight {best.weight:g}" + (f", {best.source}" if best.source else ""))
            style = _MARK.format(light=92 - 22 * min(1.0, best.weight))
            text = f'<mark style="{style}" title="{told}">{text}</mark>'
        parts.append(text)
    return "".join(parts)


def box(title: str, body: str) -> str:
    """A heading, escaped here, over HTML."""
    return f'<div style="{_BOX}"><b>{escape(title)}</b>\n{body}</div>'


class HighlightedNodes:
    """Source nodes as the model was shown them, with what a HighlightPostprocessor chose. A notebook displays it.

    It shows choices. Whether keys were edited is in the report of the answer.

    Args:
        nodes: a response with ``source_nodes``, or nodes. A node without a choice, or whose text changed since, is
            shown without highlights.
    """

    def __init__(self, nodes: Any) -> None:
        self.nodes: Sequence[NodeWithScore] = getattr(nodes, "source_nodes", nodes)
        self.prompts = tuple(_chosen(node) for node in self.nodes)

    def _repr_html_(self) -> str:
        rows = []
        for i, (node, prompt) in enumerate(zip(self.nodes, self.prompts, strict=True), start=1):
            score = "" if node.score is None else f", score {node.score:.3f}"
            rows.append(box(f"Node {i}, {as_passage(node).source}{score}", marked_html(prompt)))
        return "\n".join(rows) or "<p>no source nodes</p>"


def _chosen(node: NodeWithScore) -> Prompt:
    text = node.node.get_content(metadata_mode=MetadataMode.LLM)
    marks = node.node.metadata.get(KEY)
    return Prompt(text, read_marks(marks, text).spans if isinstance(marks, dict) and "spans" in marks else ())
