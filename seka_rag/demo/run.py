"""The demo: one question plain and steered, rates on held-out questions, and a page that shows why."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import seka_rag
from seka_rag.bench.rates import Rate
from seka_rag.demo.evaluate import KINDS, RANDOM_SEEDS, Row, evaluate, variants
from seka_rag.demo.figures import Figure, write_rates, write_text
from seka_rag.hf.attention import attention_to, last_token_attention
from seka_rag.hf.chat import render_chat
from seka_rag.model.steered import SteeredModel
from seka_rag.rag import Question, Rag
from seka_rag.retrieval.bm25 import BM25Retriever
from seka_rag.retrieval.documents import read_documents
from seka_rag.retrieval.split import split
from seka_rag.steering.base import steer
from seka_rag.steering.seka import Seka
from seka_rag.text.sentences import sentences
from seka_rag.views.page import page_template, pieces
from seka_rag.views.terminal import highlighted

QUESTION, MEMORY, EVIDENCE = "Which city is the home of Alec?", "Dublin", "Lyon"
COLUMNS = ("memory conflict", "disagreeing passages", "novel fact", "agreement", "irrelevant context")


def documents_folder() -> Path:
    """The demo's documents: a few invented people in four text files."""
    return Path(str(files("seka_rag") / "demo" / "documents"))


def demo_rag(model: SteeredModel) -> Rag:
    """BM25 over the demo's documents, one passage a paragraph."""
    passages = split(read_documents(documents_folder()), max_chars=140)
    return Rag(model, BM25Retriever(passages, k=3), highlighter="sentences")


def run_demo(console: Console, out: Path, n: int, figures: Path | None = None) -> None:
    """Print the demo and write its page to ``out``.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    template = page_template("demo/page.html.j2")  # what is missing is found before the work, not after it
    model = SteeredModel.from_pretrained("seka-demo")
    assert model.bank is not None
    gain = model.bank.suggested_gain
    rag = demo_rag(model)
    asked = rag.prepare(QUESTION)
    plain = rag.answer(asked, steering=None)
    steered = rag.answer(asked)
    _show_example(console, asked, plain.text, steered.text, gain)
    lines = variants(model, gain)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console,
        transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task(f"asking {n} held-out questions of each kind", total=sum(len(v.kinds) for v in lines))
        rows = evaluate(model, lines, n=n, progress=lambda _: bar.advance(task))
    _show_rates(console, rows, n)
    page = _page(template, model, asked, plain.text, steered.text, gain, rows, n)
    write_text(out, page)
    if figures is not None:
        write_rates(figures, [figure for row in rows for figure in _figures(row, gain)])
    console.print(f"The page with the prompt, its highlights and the attention before and after: [bold]{out}[/]")


def _figures(row: Row, gain: float) -> list[Figure]:
    settings = {} if row.name == "plain" else {"gain": gain}
    return [Figure.of(kind, row.name, settings, rate) for kind, rate in row.rates.items()]


def _show_example(console: Console, asked: Question, plain: str, steered: str, gain: float) -> None:
    console.rule("[bold]the prompt, highlights in colour")
    console.print(highlighted(asked.prompt))
    console.rule()
    table = Table(show_header=True)
    table.add_column("plain: from memory")
    table.add_column(f"steered (SEKA, gain {gain:g}): from the passage")
    table.add_row(Text(plain, style="bold"), Text(steered, style="bold green"))
    console.print(table)


def _show_rates(console: Console, rows: Sequence[Row], n: int) -> None:
    table = Table(title=f"{n} held-out questions of each kind: rate [95% interval]", title_justify="left")
    table.add_column("method")
    for column in COLUMNS:
        table.add_column(column)
    for row in rows:
        table.add_row(row.name, *(_cell(row.rates.get(kind)) for kind in KINDS))
    console.print(table)
    console.print(
        "[dim]First two: the answer is what the highlighted passage says. Last three: the answer is right, so steering does "
        "no harm.\nA tiny model of an invented world: a demonstration, not evidence about large models.[/]"
    )


def _cell(rate: Rate | None) -> str:
    if rate is None:
        return "-"
    low, high = rate.interval
    return f"{rate.value:.3f} \\[{low:.2f}, {high:.2f}]"


def _page(
    template: Any,
    model: SteeredModel,
    asked: Question,
    plain: str,
    steered: str,
    gain: float,
    rows: Sequence[Row],
    n: int,
) -> str:
    attention = _attention(model, asked, gain)
    page: str = template.render(
        version=seka_rag.__version__,
        model="seka-demo",
        parameters=f"{sum(p.numel() for p in model.hf_model.parameters()):,}",
        question=QUESTION,
        plain=plain,
        steered=steered,
        memory=MEMORY,
        evidence=EVIDENCE,
        gain=f"{gain:g}",
        pieces=pieces(asked.prompt),
        attention=attention,
        largest=max(max(row["before"], row["after"]) for row in attention),
        n=n,
        seeds=RANDOM_SEEDS,
        columns=COLUMNS,
        rows=[{"name": row.name, "cells": [_bar(row.rates.get(kind)) for kind in KINDS]} for row in rows],
    )
    return page


def _bar(rate: Rate | None) -> dict[str, object] | None:
    if rate is None:
        return None
    low, high = rate.interval
    return {"value": rate.value, "low": low, "high": high, "text": str(rate)}


def _attention(model: SteeredModel, asked: Question, gain: float) -> list[dict[str, Any]]:
    """Attention of the last token to each sentence and to the rest, before and after, in the steered layers."""
    assert model.bank is not None
    chat = render_chat(model.tokenizer, asked.messages)
    prompt = chat.tokenize(model.tokenizer)
    start = chat.template[0][1]  # the one message begins where the template's first piece ends
    ranges, labels = [], []
    for passage, place in zip(asked.passages, asked.places, strict=True):
        for sentence in sentences(passage.text):
            ranges.append((start + place.start + sentence.start, start + place.start + sentence.end))
            labels.append(passage.text[sentence.start : sentence.end].strip())
    ranges.append((start + max((place.end for place in asked.places), default=0), start + len(asked.prompt.text)))
    labels.append("the question")
    before = last_token_attention(model.hf_model, prompt)
    mask = torch.tensor([prompt.weights])
    with steer(model.hf_model, model.bank, mask, Seka(gain=gain)):
        after = last_token_attention(model.hf_model, prompt)
    layers = list(model.bank.layers)
    means = [attention_to(a[layers], prompt, ranges).mean((0, 1)).tolist() for a in (before, after)]
    marked = asked.prompt.highlighted
    rows = [
        {"label": label, "before": b, "after": a, "marked": label in marked}
        for label, b, a in zip(labels, *means, strict=True)
    ]
    rest = [1 - sum(m) for m in means]
    return [
        *rows,
        {"label": "the rest (beginning, frame, chat template)", "before": rest[0], "after": rest[1], "marked": False},
    ]
