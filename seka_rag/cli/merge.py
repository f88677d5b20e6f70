"""The command ``merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seka_rag.cli.learn import Best, Difference, Energy, Gain, MinGap, Negative, Quantile, save_bank
from seka_rag.cli.terminal import reporting


@reporting
def merge(
    files: Annotated[list[Path], typer.Argument(help="Files of seka-rag learn --statistics-out.")],
    out: Annotated[Path, typer.Option(help="Folder to write the bank to.")],
    energy: Energy = 0.9,
    min_gap: MinGap = None,
    best: Best = None,
    quantile: Quantile = None,
    gain: Gain = 0.5,
    negative: Negative = False,
    difference: Difference = False,
) -> None:
    """Make one bank of statistics that were collected in one or several files."""
    from seka_rag.learning.learn import bank_from_statistics
    from seka_rag.learning.settings import LearningSettings
    from seka_rag.learning.statistics_files import merge_statistics

    settings = LearningSettings(energy, min_gap, best, quantile, None, negative, gain, difference)
    save_bank(bank_from_statistics(*merge_statistics(files), settings), out)
