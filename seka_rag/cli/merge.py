"""The command ``merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seka_rag.cli.learn import Best, Energy, Gain, MinGap, Negative, Quantile, save_bank
from seka_rag.cli.terminal import reporting


@reporting
def merge(
    files: Annotated[list[Path], typer.Argument(help="Files of seka-rag learn --statistics-out, each share once.")],
    out: Annotated[Path, typer.Option(help="Folder to write the bank to.")],
    energy: Energy = 0.9,
    min_gap: MinGap = None,
    best: Best = None,
    quantile: Quantile = None,
    gain: Gain = 0.5,
    negative: Negative = False,
    partial: Annotated[bool, typer.Option("--partial", help="Make a bank though shares are missing.")] = False,
) -> None:
    """Make one bank of statistics that were collected in parts."""
    from seka_rag.learning.learn import bank_from_statistics
    from seka_rag.learning.shards import merge_statistics

    model, statistics = merge_statistics(files, partial=partial)
    bank = bank_from_statistics(
        model,
        statistics,
        energy=energy,
        min_gap=min_gap,
        best=best,
        quantile=quantile,
        negative=negative,
        suggested_gain=gain,
    )
    save_bank(bank, out)
