"""The command ``calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from seka_rag.cli.terminal import DEVICE, console, device_of, errors, quiet, reporting

if TYPE_CHECKING:
    from seka_rag.bank.header import Answered, Calibration, KindAnswered, Trial


@reporting
def calibrate(
    model: Annotated[str, typer.Option(help="Model name on the Hub, folder, GGUF file, or smollm2.")],
    out: Annotated[Path, typer.Option(help="Folder to write the bank to.")],
    bank: Annotated[
        str | None, typer.Option(help="Bank to calibrate, of all heads; by default one is learned.")
    ] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE)] = None,
    budget: Annotated[float, typer.Option(min=0, help="Most disturbance by unrelated highlights, in nats.")] = 0.3,
    examples: Annotated[int, typer.Option(min=8, help="Examples of each kind in the last round of first tokens.")] = 64,
    tune: Annotated[
        str | None, typer.Option(help="Also train: vectors, strengths (of heads), subspaces, with commas; or all.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps of each training.")] = 60,
    seed: Annotated[int, typer.Option(help="Of questions and training.")] = 0,
) -> None:
    """Find the method, heads and strength that make a model follow evidence, at a bounded disturbance.

    A run that was ended goes on where it was; until then its steps are in a folder beside OUT, OUT.unfinished.
    """
    from seka_rag.bank import ProjectionBank
    from seka_rag.bank.folders import check_target
    from seka_rag.bank.storage import FILES
    from seka_rag.hf.loading import load_model
    from seka_rag.learning.calibrate import CalibrationSettings
    from seka_rag.learning.calibrate import calibrate as run
    from seka_rag.learning.resume import remove_steps
    from seka_rag.learning.trainable import trainings
    from seka_rag.learning.tune import TuningSettings

    out = out.resolve()  # "." has no name
    check_target(out, FILES)
    tuning = TuningSettings(steps=steps)
    settings = CalibrationSettings(budget=budget, examples=examples, tune=trainings(tune), tuning=tuning, seed=seed)
    quiet()
    unfinished = out.with_name(f"{out.name}.unfinished")
    given = None if bank is None else ProjectionBank.from_pretrained(bank)
    loaded = load_model(model, device=device_of(device))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("facts", total=None)

        def show(step: str, done: int, total: int) -> None:
            bar.update(task, description=step, completed=done, total=total)

        found = run(loaded.hf_model, given, settings, tokenizer=loaded.tokenizer, progress=show, unfinished=unfinished)
    found.save(out)
    remove_steps(unfinished)
    assert found.calibration is not None
    show_trials(found.calibration)
    console.print(f"chosen: {dict(found.steering)}\nsaved to {out}", highlight=False)


def show_trials(calibration: object) -> None:
    """Print what a calibration tried, the most followed first."""
    from seka_rag.bank.header import Calibration
    from seka_rag.bench.rates import wilson

    assert isinstance(calibration, Calibration)
    if calibration.known is not None:
        answered = "" if calibration.recalled is None else f", {calibration.recalled} of them answered"
        rest = f"{calibration.trained} for gradients and training only"
        console.print(f"{calibration.known} facts known{answered}; {rest}")
    _show_answers(calibration)
    n, budget = calibration.trials[0].examples, calibration.budget
    table = _table("following \\[95%]", "margin", "disturbance")
    table.title = f"{n} conflicts and as many unrelated highlights; budget {budget:g} nats"
    for trial in sorted(calibration.trials, key=lambda t: -t.following):
        low, high = wilson(trial.following, trial.examples)
        following = f"{trial.following:.3f} \\[{low:.2f}, {high:.2f}]"
        numbers = (following, f"{trial.margin:+.2f}", f"{trial.disturbance:.3f}")
        name = _setting(trial, "gain", "bias", "seed")
        table.add_row(name, *numbers, style=None if trial.disturbance <= budget else "dim")
    console.print(table)


def _show_answers(calibration: Calibration) -> None:
    if not calibration.answers:
        return
    kinds = list(dict.fromkeys(k.kind for a in calibration.answers for k in a.kinds))
    table = _table(*kinds, "gain", "repeats")
    table.title = "generated answers to development questions: right of all, won and lost beside the plain model"
    for answered in calibration.answers:
        by_kind = {k.kind: k for k in answered.kinds}
        cells = (_right(by_kind[kind], answered) if kind in by_kind else "" for kind in kinds)
        total = sum(k.n for k in answered.kinds)
        repeated = sum(k.repetition * k.n for k in answered.kinds) / total
        name = _setting(answered, "gain", "bias", "fade") + (f"\nharm: {answered.harm}" if answered.harm else "")
        table.add_row(
            name, *cells, f"{answered.gain:+.3f}", f"{repeated:.3f}", style="bold" if answered.chosen else None
        )
    console.print(table)


def _table(*columns: str) -> Table:
    """A row for each setting; fits 80 columns, the settings wrapped."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 1, 0), pad_edge=False, show_edge=False)
    table.add_column("setting", min_width=13)
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right")
    return table


def _right(found: KindAnswered, answered: Answered) -> str:
    changes = "" if answered.steering is None else f"\n+{found.won} -{found.lost}"
    return f"{found.right}/{found.n}{changes}"


def _setting(tried: Trial | Answered, *shown: str) -> str:
    """Method, what is shown of it, and its heads."""
    if tried.steering is None:
        return "plain"
    values = (f"{name}={_short(tried.steering[name])}" for name in shown if name in tried.steering)
    return " ".join((str(tried.steering["method"]), *values)) + f"\n{tried.heads}"


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
