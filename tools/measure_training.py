"""What training adds to a steering.

``python -m tools.measure_training train KIND --out DIR`` trains a KIND of ``calibrate --tune`` as that does, prints what
it does to the first tokens of the development facts on which calibration measures, and writes a bank that suggests it.
``python -m tools.measure_training answers DIR --split held-out`` asks it, beside the bank that ships with the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seka_rag import load_bank
from seka_rag.bench.rates import Rate, wilson
from seka_rag.demo.real import KINDS, NEW_TOKENS, answers_to, known_to
from seka_rag.hf.identity import identify
from seka_rag.hf.loading import load_model
from seka_rag.learning.calibrate import CalibrationSettings, prepare
from seka_rag.learning.resume import Steps, remove_steps
from seka_rag.learning.trainable import TRAINABLES, Training
from seka_rag.learning.trials import Bench
from seka_rag.learning.tune import TuningSettings, tune
from seka_rag.model.steered import SteeredModel
from seka_rag.questions.facts import Split, load_facts
from seka_rag.questions.kinds import questions
from seka_rag.questions.pairs import discordant, mcnemar
from seka_rag.steering.key_editing import KeyEditing
from seka_rag.steering.registry import suggested

app = typer.Typer(add_completion=False)


@app.command()
def train(
    kind: Training,
    out: Annotated[Path, typer.Option(help="Folder to write the bank to.")],
    model: str = "smollm2",
    steps: Annotated[int, typer.Option(min=1)] = 60,
    strength: Annotated[float, typer.Option(help="Suggested by the bank, as a factor of what was trained.")] = 1.0,
    n: Annotated[int, typer.Option(min=8, help="Examples of each kind to measure.")] = 64,
    seed: int = 0,
) -> None:
    """Train one kind, measure it and keep it."""
    loaded = load_model(model)
    hf_model, tokenizer = loaded.hf_model, loaded.tokenizer
    settings = CalibrationSettings(tune=(kind,), tuning=TuningSettings(steps=steps), seed=seed)
    kept = Steps(
        out.resolve().with_name(f"{out.resolve().name}.unfinished"),
        {"model": identify(hf_model).model_dump(), "settings": settings.model_dump()},
    )
    show = lambda step, done, total: typer.echo(f"\r{step} {done} of {total}   ", nl=False, err=True)  # noqa: E731
    ground = prepare(hf_model, tokenizer, None, settings, load_facts(), kept, show)
    trained = TRAINABLES[kind](ground.bank, ground.begin, ground.sites)
    tensors = tune(
        hf_model,
        trained,
        ground.conflicts,
        ground.unrelated,
        settings.tuning,
        seed=seed,
        progress=lambda _: typer.echo(".", nl=False, err=True),
        steps=kept,
    )
    bank = trained.bank(tensors, ground.bank)
    method = trained.method.with_strength(strength * trained.method.strength)
    bank.changed(steering=method.as_dict()).save(out)
    if bank.strengths is not None:
        typer.echo(
            f"\nstrengths: {bank.strengths.count_nonzero()} heads, {bank.strengths.abs().quantile(0.9):.2f} at most for 90%"
        )
    conflicts, unrelated = (
        ground.sides.measured_examples(tokenizer, of, seed)[:n] for of in ("conflict", "irrelevant")
    )
    bench = Bench(hf_model, ground.sites, conflicts, unrelated)
    some: list[tuple[KeyEditing | None, str]] = [(None, "plain"), *((m, repr(m)) for m in trained.methods)]
    for method, line in some:
        edits = None if method is None else method.edits(bank, ground.sites)
        trial = bench.measure(edits, range(len(conflicts))).trial(method, "all")
        low, high = wilson(trial.following, trial.examples)
        typer.echo(
            f"{line} | {trial.following:.3f} [{low:.2f}, {high:.2f}] | {trial.margin:+.2f} | {trial.disturbance:.3f}"
        )
    assert kept.folder is not None
    remove_steps(kept.folder)


@app.command()
def answers(
    bank: Path,
    model: str = "smollm2",
    split: Split = "development",
    n: Annotated[int, typer.Option(min=8, help="Questions of each kind.")] = 100,
) -> None:
    """Generated answers to the demo's questions: of a bank and of that which ships, each with the method that it suggests."""
    loaded = SteeredModel.from_pretrained(model)
    other = SteeredModel(loaded.hf_model, loaded.tokenizer, bank=load_bank(bank), name=model)
    known = known_to(loaded, split)
    for kind in KINDS:
        records = questions(kind, split, n, facts=known, passages=(3, 3))
        right = {}
        for name, steered in (("ships", loaded), ("trained", other)):
            assert steered.bank is not None
            texts = answers_to(steered, records, suggested(steered.bank), NEW_TOKENS)
            right[name] = [record.is_right(text) for record, text in zip(records, texts, strict=True)]
        (lost, won), p = discordant(*right.values()), mcnemar(*right.values())
        typer.echo(f"{kind} | {Rate.of(right['ships'])} | {Rate.of(right['trained'])} | +{won}, -{lost} | {p:.2g}")


if __name__ == "__main__":
    app()
