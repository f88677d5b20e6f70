"""The command ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seka_rag.cli.terminal import BANK, DEVICE, MODEL, console, device_of, progress, quiet, reporting


@reporting
def bench(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK...", help="Which benchmarks, by name.")],
    model: Annotated[str, typer.Option(help=MODEL)],
    bank: Annotated[str, typer.Option(help=BANK)] = "auto",
    data: Annotated[
        Path | None, typer.Option(help="Records, one JSON object a line; by default our own questions.")
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Names with commas; by default all.")] = None,
    highlights: Annotated[
        str | None,
        typer.Option(help="Names with commas: gold, wrong, all, or a highlighter; by default the task's."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Records of each kind; by default the task's number, and all of --data.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for outcomes, results and the report.")] = Path("bench"),
    split: Annotated[str, typer.Option(help="Of our own questions: development or held-out.")] = "development",
    dtype: Annotated[
        str, typer.Option(help="In which the model computes: bfloat16, float16, float32, or auto, as it is loaded.")
    ] = "auto",
    device: Annotated[str | None, typer.Option(help=DEVICE)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few records, of --data too, and few methods.")] = False,
) -> None:
    """Compare steering methods with the plain model on benchmarks; a run that was ended goes on where it was."""
    from seka_rag.bench.run import Plan, run_plan

    plan = Plan(
        tasks=tuple(tasks),
        model=model,
        bank=bank,
        data=data,
        methods=_names(methods),
        highlights=_names(highlights),
        limit=limit,
        out=out,
        split=split,
        dtype=dtype,
        device=device_of(device),
        quick=quick,
    )
    quiet()
    for path in run_plan(plan, progress):
        console.print(f"written: {path}", highlight=False)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())
