"""The console script: ``seka-rag demo``, ``ask``, ``learn`` and ``inspect``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from seka_rag.errors import SekaError

DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"

app = typer.Typer(
    help="RAG answers that follow the evidence: attention steering towards retrieved passages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console, errors = Console(), Console(stderr=True)
P = ParamSpec("P")


def _reporting(command: Callable[P, None]) -> Callable[P, None]:
    """Errors that the library foresees become one clear message and exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SekaError as error:
            errors.print(f"[bold red]error:[/] {escape(str(error))}")
            raise typer.Exit(1) from None

    return run


def _progress(text: str) -> Progress:
    return Progress(
        TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=errors, transient=True
    )


def _quiet() -> None:
    """Keep transformers' own bars and hints out of the output of commands."""
    from seka_rag.hf.loading import quiet

    quiet()


@app.command()
@_reporting
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    docs: Annotated[Path, typer.Option(help="Folder (or file) of txt, md, html and pdf documents.")],
    model: Annotated[
        str, typer.Option(help="Model name on the Hub, folder, or seka-demo (built in, tiny, no network).")
    ] = DEFAULT_MODEL,
    bank: Annotated[
        Path | None, typer.Option(help="Folder of a bank; by default one is learned once and cached.")
    ] = None,
    gain: Annotated[float | None, typer.Option(help="Strength of steering; 0 is the plain model.")] = None,
    highlight: Annotated[str, typer.Option(help="What to highlight: sentences, top_k, all or off.")] = "sentences",
    k: Annotated[int, typer.Option(min=1, help="Passages to retrieve.")] = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 128,
    encoding: Annotated[str, typer.Option(help="Of the text files.")] = "utf-8",
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it is generated.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Also print the plain model's answer.")] = False,
) -> None:
    """Answer a question from your own documents, steered towards the sentences that matter."""
    from seka_rag.rag import Rag
    from seka_rag.retrieval.bm25 import BM25Retriever
    from seka_rag.retrieval.documents import read_documents
    from seka_rag.steering.seka import Seka
    from seka_rag.terminal import highlighted

    retriever = BM25Retriever(read_documents(docs, encoding=encoding), k=k)
    loaded = _with_bank(model, bank)
    rag = Rag(loaded, retriever, highlighter=highlight)
    asked = rag.prepare(question)
    console.print(Panel(highlighted(asked.prompt), title="prompt (highlights in colour)", title_align="left"))
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens}
    if compare:
        console.print(
            Text("plain:   ", style="bold").append(rag.answer(asked, steering=None, **options).text, style="not bold")
        )
    if gain is not None:
        options["steering"] = Seka(gain=gain)
    if stream:
        console.print("answer:  ", style="bold", end="")
        pieces = rag.stream(asked, **options)
        for piece in pieces:
            console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        console.print()
        report = pieces.result.report
        report.warnings += asked.warnings
    else:
        answer = rag.answer(asked, **options)
        report = answer.generation.report
        console.print(Text("answer:  ", style="bold").append(answer.text, style="not bold"))
    for warning in report.warnings:
        errors.print(f"[yellow]warning:[/] {escape(warning)}")
    console.print(
        f"[dim]{report.method}, gain {report.gain:g}: {report.tokens_edited} of {report.tokens_marked} highlighted tokens "
        f"edited in {len(report.layers)} layers, {report.heads} heads; sources: "
        f"{escape(', '.join(dict.fromkeys(p.source or '?' for p in asked.passages)) or 'none')}[/]"
    )


@app.command()
@_reporting
def learn(
    model: Annotated[str, typer.Option(help="Model name on the Hub, or folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write the bank to.")],
    triples: Annotated[Path | None, typer.Option(help="Contrastive triples, one JSON object a line.")] = None,
    docs: Annotated[Path | None, typer.Option(help="Learn from your own documents instead of the templates.")] = None,
    n: Annotated[int, typer.Option(min=1, help="How many triples to make.")] = 300,
    energy: Annotated[float, typer.Option(help="Share of the singular values that a subspace holds.")] = 0.9,
    min_gap: Annotated[float | None, typer.Option(help="Steer heads whose relevance gap is at least this.")] = None,
    best: Annotated[float | None, typer.Option(help="Steer this share of all heads, those of the largest gap.")] = None,
    gain: Annotated[float, typer.Option(help="Suggested gain, stored in the bank.")] = 0.5,
    negative: Annotated[bool, typer.Option("--negative", help="Also learn the negative part.")] = False,
    seed: Annotated[int, typer.Option(help="Of the templates or questions.")] = 0,
    encoding: Annotated[str, typer.Option(help="Of the documents.")] = "utf-8",
) -> None:
    """Learn a bank for a model: from templates, from your own documents, or from given triples."""
    from seka_rag.errors import LearningError
    from seka_rag.learning.cloze import document_triples
    from seka_rag.learning.tasks.lookup import template_triples
    from seka_rag.learning.triples import read_triples
    from seka_rag.model import SteeredModel
    from seka_rag.retrieval.documents import read_documents

    if triples and docs:
        raise LearningError("give --triples or --docs, not both")
    if triples:
        data = read_triples(triples)
    elif docs:
        data = document_triples([d.text for d in read_documents(docs, encoding=encoding)], n, seed)
    else:
        data = template_triples(n, seed)
    _quiet()
    loaded = SteeredModel.from_pretrained(model)
    settings = {"energy": energy, "min_gap": min_gap, "best": best, "negative": negative, "suggested_gain": gain}
    learned = _learn(loaded, data, **settings)
    learned.save(out)
    console.print(
        f"{learned!r}\nlearned from {learned.learning.triples} triples, {learned.learning.tokens} tokens",
        highlight=False,
    )
    if learned.learning.skipped:
        console.print(f"{learned.learning.skipped} triples skipped: their answers have other tokens in other prompts")
    console.print(f"saved to {out}")


@app.command()
@_reporting
def inspect(
    bank: Annotated[Path, typer.Argument(help="Folder of a bank.")],
    picture: Annotated[Path | None, typer.Option(help="Where to draw layers by heads (png, svg or pdf).")] = None,
) -> None:
    """Show what a bank holds: its model, and the relevance gap and rank of every head."""
    from seka_rag.bank import ProjectionBank
    from seka_rag.heatmap import draw_bank

    loaded = ProjectionBank.load(bank)
    facts = Table.grid(padding=(0, 2))
    for name, value in {**loaded.model.model_dump(), **loaded.learning.model_dump()}.items():
        facts.add_row(f"[dim]{name}[/]", escape(str(value)))
    facts.add_row("[dim]suggested gain[/]", f"{loaded.suggested_gain:g}")
    facts.add_row("[dim]digest[/]", loaded.digest)
    console.print(facts)
    table = Table("layer", *(f"head {h}" for h in range(loaded.model.heads)), title="relevance gap (kept rank)")
    largest = max(float(loaded.gap.max()), 1e-9)
    for layer, (gaps, ranks) in enumerate(zip(loaded.gap.tolist(), loaded.ranks.tolist(), strict=True)):
        cells = [
            Text(f"{g:.3f}" + (f" ({r})" if r else ""), style=("bold " if r else "dim ") + _shade(g / largest))
            for g, r in zip(gaps, ranks, strict=True)
        ]
        table.add_row(str(layer), *cells)
    console.print(table)
    if picture:
        console.print(f"picture: {draw_bank(loaded, picture)}")


@app.command()
@_reporting
def demo(
    out: Annotated[Path, typer.Option(help="Where to write the page.")] = Path("demo.html"),
    n: Annotated[int, typer.Option(min=20, help="Held-out questions of each kind.")] = 300,
) -> None:
    """Show plain and steered answers of the built-in model, and its rates on held-out questions."""
    _quiet()
    from seka_rag.demo.run import run_demo

    run_demo(console, out, n)


def _with_bank(name: str, bank: Path | None) -> Any:
    """The model with its bank: given, built in, cached, or learned from the templates now and cached."""
    from seka_rag.bank import ProjectionBank
    from seka_rag.cache import bank_folder
    from seka_rag.hf.identity import identify
    from seka_rag.learning.tasks.lookup import template_triples
    from seka_rag.model import SteeredModel

    _quiet()
    loaded = SteeredModel.from_pretrained(name, bank=bank)
    if loaded.bank is not None:
        return loaded
    folder = bank_folder(name, identify(loaded.hf_model))
    if not (folder / "bank.json").exists():
        errors.print(
            f"no bank for {escape(name)} yet: learning one from templates (once; kept in {escape(str(folder))})"
        )
        _learn(loaded, template_triples(200), best=0.2).save(folder)
    return SteeredModel(loaded.hf_model, loaded.tokenizer, bank=ProjectionBank.load(folder), name=name)


def _learn(model: Any, triples: Any, **settings: Any) -> Any:
    from seka_rag.learning.learn import learn_bank

    with _progress("learning") as bar:
        task = bar.add_task("", total=len(triples))
        return learn_bank(model, triples, progress=lambda done: bar.advance(task, done), **settings)


def _shade(share: float) -> str:
    return "green" if share > 0.66 else "cyan" if share > 0.33 else "white"


def main() -> None:
    sys.exit(app())


if __name__ == "__main__":
    main()
