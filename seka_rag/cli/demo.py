"""The command ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seka_rag.cli.terminal import console, quiet, reporting


@reporting
def demo(
    out: Annotated[Path, typer.Option(help="Where to write the page.")] = Path("demo.html"),
    n: Annotated[int, typer.Option(min=20, help="Held-out questions of each kind.")] = 300,
) -> None:
    """Show plain and steered answers of the built-in model, and its rates on held-out questions."""
    quiet()
    from seka_rag.demo.run import run_demo

    run_demo(console, out, n)
