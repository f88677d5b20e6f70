"""The command ``learn``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seka_rag.cli.terminal import DEVICE, MODEL, STRICT, console, device_of, progress, quiet, reporting
from seka_rag.cli.triples import Source

if TYPE_CHECKING:
    from seka_rag.bank import ProjectionBank
    from seka_rag.hf.loading import LoadedModel
    from seka_rag.learning.settings import LearningSettings
    from seka_rag.learning.triples import ContrastiveTriple

#: Loads the model, once everything else that can be wrong was seen to be right.
Load = Callable[[], "LoadedModel"]

Energy = Annotated[float, typer.Option(help="Share of the singular values that a subspace holds.")]
MinGap = Annotated[float | None, typer.Option(help="Steer heads whose relevance gap is at least this.")]
Best = Annotated[float | None, typer.Option(help="Steer this share of all heads, those of the largest gap.")]
Quantile = Annotated[float | None, typer.Option(help="Steer heads whose gap is at least this quantile of all gaps.")]
Gain = Annotated[float, typer.Option(help="Suggested gain, stored in the bank.")]
Negative = Annotated[bool, typer.Option("--negative", help="Also learn the negative part.")]

Difference = Annotated[
    bool, typer.Option("--difference", help="Subspaces of what tells relevant from irrelevant keys (PRISM).")
]
Values = Annotated[bool, typer.Option("--values", help="Also learn subspaces of values (PRISM).")]


@reporting
def learn(
    model: Annotated[str, typer.Option(help=MODEL)],
    out: Annotated[Path | None, typer.Option(help="Folder to write the bank to.")] = None,
    triples: Annotated[Path | None, typer.Option(help="Contrastive triples, one JSON object a line.")] = None,
    docs: Annotated[Path | None, typer.Option(help="Learn from your own documents instead of the templates.")] = None,
    experts: Annotated[
        str | None, typer.Option(help="Learn experts for AdaSEKA: all, or names of tasks with commas.")
    ] = None,
    expert: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="An expert of your own triples; may be repeated.")
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="How many triples to make.")] = 300,
    energy: Energy = 0.9,
    min_gap: MinGap = None,
    best: Best = None,
    quantile: Quantile = None,
    gain: Gain = 0.5,
    negative: Negative = False,
    difference: Difference = False,
    values: Values = False,
    seed: Annotated[int, typer.Option(help="Of the templates or questions.")] = 0,
    encoding: Annotated[str | None, typer.Option(help="Of the documents; by default it is recognised.")] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE)] = None,
    strict: Annotated[bool, typer.Option("--strict", help=STRICT)] = False,
    statistics_out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File for the statistics of these triples, for seka-rag merge.")
    ] = None,
) -> None:
    """Learn a bank for a model: from templates, from your own documents, or from given triples; or several experts."""
    from seka_rag.errors import SettingError
    from seka_rag.learning.settings import LearningSettings

    source = Source(triples, docs, n, seed, encoding, strict)
    load = partial(_loaded, model, device)
    settings = LearningSettings(energy, min_gap, best, quantile, None, negative, gain, difference, values)
    if (out is None) == (statistics_out is None):
        raise SettingError("give --out for a bank, or --statistics-out for the statistics of these triples")
    if experts or expert:
        if out is None:
            raise SettingError("--statistics-out is for one bank: give --out for experts")
        save_experts(load, source.of_experts(experts, expert or []), settings, out)
    elif statistics_out is not None:
        if values:
            raise SettingError("--statistics-out has no place for values: learn the bank in one run, with --out")
        save_statistics_of(load, source.read(), statistics_out)
    elif out is not None:
        save_learned(load, source, settings, out)


def save_learned(load: Load, source: Source, settings: LearningSettings, out: Path) -> None:
    """Learn one bank and write it."""
    from seka_rag.bank.folders import check_target
    from seka_rag.bank.storage import FILES

    check_target(out, FILES)
    triples = source.read()
    save_bank(learn_with_progress(load(), triples, settings), out)


def save_experts(
    load: Load, triples: Mapping[str, Sequence[ContrastiveTriple]], settings: LearningSettings, out: Path
) -> None:
    """Learn one expert for each set of triples and write them."""
    from seka_rag.bank.experts import expert_files
    from seka_rag.bank.folders import check_target
    from seka_rag.learning.experts import learn_experts

    check_target(out, expert_files(triples), "an expert bank")
    loaded = load()
    with progress(f"learning {', '.join(triples)}", sum(map(len, triples.values()))) as advance:
        bank = learn_experts(loaded, triples, settings, progress=advance)
    bank.save(out)
    console.print(f"{bank!r}\nsaved to {out}", highlight=False)


def save_statistics_of(load: Load, triples: Sequence[ContrastiveTriple], file: Path) -> None:
    """Collect the statistics of these triples and write them."""
    from seka_rag.hf.identity import identify
    from seka_rag.learning.statistics import collect_statistics
    from seka_rag.learning.statistics_files import save_statistics

    loaded = load()
    with progress("collecting", len(triples)) as advance:
        found = collect_statistics(loaded.hf_model, loaded.tokenizer, triples, progress=advance)
    save_statistics(file, identify(loaded.hf_model), found)
    console.print(f"{found.triples} triples, {found.tokens} tokens, {found.skipped} skipped; saved to {file}")


def learn_with_progress(
    model: LoadedModel, triples: Sequence[ContrastiveTriple], settings: LearningSettings
) -> ProjectionBank:
    """``learn_bank`` with a bar."""
    from seka_rag.learning.learn import learn_bank

    with progress("learning", len(triples)) as advance:
        return learn_bank(model, triples, settings, progress=advance)


def save_bank(bank: ProjectionBank, out: Path) -> None:
    """Write a learned bank, and say what it was learned from."""
    bank.save(out)
    learning = bank.learning
    console.print(f"{bank!r}\nlearned from {learning.triples} triples, {learning.tokens} tokens", highlight=False)
    if learning.skipped:
        console.print(f"{learning.skipped} triples skipped: their answers have other tokens in other prompts")
    console.print(f"saved to {out}")


def _loaded(model: str, device: str | None) -> LoadedModel:
    from seka_rag.hf.loading import load_model

    quiet()
    return load_model(model, device=device_of(device))
