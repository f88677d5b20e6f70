"""The command ``inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from seka_rag.cli.calibrate import show_trials
from seka_rag.cli.experts import show_choices
from seka_rag.cli.terminal import console, reporting


@reporting
def inspect(
    bank: Annotated[str, typer.Argument(help="Folder of a bank or of experts, or its name on the Hub.")],
    picture: Annotated[
        Path | None, typer.Option(help="Where to draw layers by heads, or queries by experts (png, svg or pdf).")
    ] = None,
    curve: Annotated[
        Path | None, typer.Option(help="Where to draw what its calibration tried: following against disturbance.")
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option(help="With experts: show which of them this prompt chooses; may be repeated.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model of the experts, needed for --query.")] = None,
) -> None:
    """Show what a bank holds: its model, the gap and rank of every head; of experts, which of them queries choose."""
    from seka_rag.bank import load_bank
    from seka_rag.errors import SettingError
    from seka_rag.views.banks import draw_bank, draw_calibration, draw_routing

    loaded: Any = load_bank(bank)
    if not loaded.names:
        if query:
            raise SettingError(f"{bank} is one bank and chooses nothing: --query is for experts")
        _show(loaded)
        if loaded.calibration:
            show_trials(loaded.calibration)
        if picture:
            console.print(f"picture: {draw_bank(loaded, picture)}")
        if curve:
            console.print(f"curve: {draw_calibration(loaded, curve)}")
        return
    if query and model is None:
        raise SettingError("--query needs --model, the model that the experts were learned for")
    if picture and not query:
        raise SettingError("the picture of experts shows what queries choose: give --query and --model")
    for name in loaded.names:
        console.rule(f"expert {name}, gain {loaded.gains[name]:g}", align="left")
        _show(loaded[name])
    if query and model:
        weights = show_choices(model, loaded, query)
        if picture:
            console.print(f"picture: {draw_routing(weights, query, picture)}")


def _show(loaded: Any) -> None:
    from seka_rag.bank.base import described
    from seka_rag.bank.sensitivity import ENERGIES, bank_sensitivity

    facts = Table.grid(padding=(0, 2))
    for name, value in {**loaded.model.model_dump(), **loaded.learning.model_dump()}.items():
        if value not in (None, {}):
            facts.add_row(f"[dim]{name}[/]", escape(str(value)))
    facts.add_row("[dim]suggested steering[/]", escape(described(loaded.steering)))
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
    if loaded.gap.any():
        table = Table("best", "heads", "min gap", *(f"{e:.0%}" for e in ENERGIES))
        table.title = "heads by share, and their mean rank by share of the bank's singular values"
        for row in bank_sensitivity(loaded):
            ranks = ("-" if r is None else f"{r:.1f}" for r in row.ranks)
            table.add_row(f"{row.best:.0%}", str(row.heads), f"{row.min_gap:.3f}", *ranks)
        console.print(table)


def _shade(share: float) -> str:
    return "green" if share > 0.66 else "cyan" if share > 0.33 else "white"
