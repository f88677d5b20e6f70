"""How often the default highlighter marks anything, and the evidence, where passages answer and where they do not.

``python -m tools.measure_abstention``: development questions of our own set over three passages, no model. With
``--one-source`` all passages of a question are of one source. The tables are in docs/how-to/highlight.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from seka_rag import Passage, Sentences
from seka_rag.bench.rates import Rate
from seka_rag.questions.kinds import Kind, questions
from seka_rag.questions.records import Record
from seka_rag.text.spans import Span

KINDS: tuple[Kind, ...] = ("conflict", "agreement", "novel", "irrelevant", "unanswerable")


def finds(record: Record, spans: Sequence[Sequence[Span]]) -> bool:
    """Whether the sentence that answers is among the marked text."""
    evidence = record.meta["evidence"]
    return evidence is not None and any(
        span.start < evidence["end"] and evidence["start"] < span.end for span in spans[evidence["passage"]]
    )


def main(
    n: Annotated[int, typer.Option(min=1, help="Questions of each kind.")] = 300,
    passages: Annotated[int, typer.Option(min=3, help="Of each question.")] = 3,
    one_source: Annotated[bool, typer.Option("--one-source", help="All passages of a question are of one.")] = False,
) -> None:
    source = "source" if one_source else None
    for least in (0.34, 0.5, 0.67):
        highlighter = Sentences(min_overlap=least)
        for kind in KINDS:
            records = questions(kind, "development", n, passages=(passages, passages))
            marks = [highlighter(r.question, [Passage(text, source=source) for text in r.passages]) for r in records]
            anything = Rate.of([any(some) for some in marks])
            evidence = Rate.of([finds(r, some) for r, some in zip(records, marks, strict=True)])
            typer.echo(f"min_overlap {least:g} | {kind} | anything marked {anything} | evidence marked {evidence}")


if __name__ == "__main__":
    typer.run(main)
