"""The console script ``seka-rag``: its commands, in the order in which the help shows them."""

from __future__ import annotations

from typing import Annotated

import typer

from seka_rag.cli.ask import ask
from seka_rag.cli.bench import bench
from seka_rag.cli.calibrate import calibrate
from seka_rag.cli.demo import demo
from seka_rag.cli.inspect import inspect
from seka_rag.cli.learn import learn
from seka_rag.cli.merge import merge
from seka_rag.cli.serve import serve
from seka_rag.cli.terminal import console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from seka_rag import __version__

        console.print(f"seka-rag {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """RAG answers that follow the evidence: attention steering towards retrieved passages."""


for command in (ask, demo, learn, calibrate, merge, inspect, serve, bench):
    app.command()(command)
