"""The command ``ask``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from seka_rag.cli.terminal import BANK, DEVICE, MODEL, STRICT, console, device_of, errors, left_out, quiet, reporting
from seka_rag.views.terminal import highlighted

if TYPE_CHECKING:
    from seka_rag.steering.base import SteeringReport

DEFAULT_MODEL = "smollm2"


@reporting
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    docs: Annotated[Path, typer.Option(help="Folder (or file) of txt, md, html and pdf documents.")],
    model: Annotated[str, typer.Option(help=MODEL)] = DEFAULT_MODEL,
    bank: Annotated[str, typer.Option(help=BANK)] = "auto",
    device: Annotated[str | None, typer.Option(help=DEVICE)] = None,
    gain: Annotated[
        float | None, typer.Option(help="Strength of the method that the bank suggests; 0 is the plain model.")
    ] = None,
    highlight: Annotated[str, typer.Option(help="What to highlight: sentences, top_k, all or off.")] = "sentences",
    k: Annotated[int, typer.Option(min=1, help="Passages to retrieve.")] = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 128,
    template_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="For the model's chat template, such as enable_thinking=false."),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Of the text files; by default it is recognised.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help=STRICT)] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it is generated.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Also print the plain model's answer.")] = False,
) -> None:
    """Answer a question from your own documents, steered towards the sentences that matter."""
    from seka_rag.errors import SettingError
    from seka_rag.hf.template_options import check_template_options
    from seka_rag.model.steered import SteeredModel
    from seka_rag.rag import Rag
    from seka_rag.retrieval.bm25 import BM25Retriever
    from seka_rag.retrieval.documents import read_documents

    documents = read_documents(docs, encoding=encoding, on_error="raise" if strict else left_out)
    retriever = BM25Retriever(documents, k=k)
    quiet()
    loaded = SteeredModel.from_pretrained(model, bank=bank, device=device_of(device))
    rag = Rag(loaded, retriever, highlighter=highlight)
    asked = rag.prepare(question)
    console.print(Panel(highlighted(asked.prompt), title="prompt (highlights in colour)", title_align="left"))
    options: dict[str, object] = {"max_new_tokens": max_new_tokens}
    if template_option:
        if not loaded.can_chat:
            raise SettingError(f"--template-option: {model} has no chat template")
        options["template"] = template = template_options(template_option)
        check_template_options(loaded.tokenizer, template)
    if compare:
        console.print(
            Text("plain:   ", style="bold").append(rag.answer(asked, steering=None, **options).text, style="not bold")
        )
    if gain is not None and (usual := loaded.usual_steering) is not None:
        options["steering"] = usual.with_strength(gain)
    if stream:
        console.print("answer:  ", style="bold", end="")
        pieces = rag.stream(asked, **options)
        for piece in pieces:
            console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        console.print()
        generation = pieces.result
        report = generation.report
        report.warnings += asked.warnings
    else:
        answer = rag.answer(asked, **options)
        generation = answer.generation
        report = generation.report
        console.print(Text("answer:  ", style="bold").append(answer.text, style="not bold"))
    if generation.thoughts:
        console.print(Text(f"thought: {generation.thoughts}", style="dim"))
    for warning in report.warnings:
        errors.print(f"[yellow]warning:[/] {escape(warning)}")
    console.print(
        f"[dim]{report.method}, gain {report.gain:g}: {report.tokens_edited} of {report.tokens_marked} highlighted tokens "
        f"edited in {len(report.layers)} layers, {report.heads} heads; {_experts_of(report)}sources: "
        f"{escape(', '.join(dict.fromkeys(p.source or '?' for p in asked.passages)) or 'none')}[/]"
    )


def template_options(given: list[str]) -> dict[str, object]:
    """``NAME=VALUE`` as options of a chat template; a value that is JSON (true, false, 3) counts as that.

    Raises:
        SettingError: another form.
    """
    from seka_rag.errors import SettingError

    options: dict[str, object] = {}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not equals or not name.strip():
            raise SettingError(f"--template-option {entry!r}: give NAME=VALUE, such as enable_thinking=false")
        try:
            options[name.strip()] = json.loads(value)
        except ValueError:
            options[name.strip()] = value
    return options


def _experts_of(report: SteeringReport) -> str:
    weights = report.experts[0].items() if report.experts else ()
    return f"experts {', '.join(f'{name} {weight:.2f}' for name, weight in weights)}; " if weights else ""
