"""The command ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seka_rag.cli.terminal import console, quiet, reporting


@reporting
def demo(
    model: Annotated[
        str, typer.Option(help="A model with a bank, such as smollm2; seka-demo shows the built-in tiny one.")
    ] = "smollm2",
    out: Annotated[Path, typer.Option(dir_okay=False, help="Where to write the page.")] = Path("demo.html"),
    n: Annotated[
        int | None, typer.Option(min=20, help="Held-out questions of each kind; 100, or 300 of seka-demo.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Where to write the rates for machines.")
    ] = None,
) -> None:
    """Show plain and steered answers of a model, and its rates on held-out questions."""
    quiet()
    if model == "seka-demo":
        from seka_rag.demo.run import run_demo

        run_demo(console, out, n or 300, figures)
        return
    from seka_rag.demo.real import run_real_demo

    run_real_demo(console, model, out, n or 100, figures, "held-out")
