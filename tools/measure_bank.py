"""What the tables of docs/how-to/calibrate.md show: methods on the heads of a model's bank, and fading in generated answers.

``python -m tools.measure_bank first-token`` and ``python -m tools.measure_bank fading``. Both ask about development facts that
the model knows and that its calibration neither measured on nor took gradients from (but a training of vectors saw them).
"""

from __future__ import annotations

from statistics import mean
from typing import Annotated

import torch
import typer

from seka_rag.bank import ProjectionBank
from seka_rag.bench.rates import Rate, mean_interval
from seka_rag.demo.real import answers_to
from seka_rag.errors import SettingError
from seka_rag.hf.find import find_key_sites
from seka_rag.learning.examples import record_examples
from seka_rag.learning.scores import batches, divergence, margins, next_scores
from seka_rag.learning.sides import Sides, known_facts, subject_of
from seka_rag.model.steered import SteeredModel
from seka_rag.questions.answers import repetition
from seka_rag.questions.facts import Fact, load_facts
from seka_rag.questions.kinds import Kind, questions
from seka_rag.questions.pairs import mcnemar
from seka_rag.steering.key_editing import KeyEditing
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.random_projection import RandomProjection
from seka_rag.steering.registry import suggested
from seka_rag.steering.seka import Seka

app = typer.Typer(add_completion=False)
Count = Annotated[int, typer.Option(min=8, help="Questions of each kind.")]
Name = Annotated[str, typer.Option(help="A model with a calibrated bank.")]

METHODS: tuple[KeyEditing, ...] = (
    Seka(gain=0.5),
    *(RandomProjection(gain=0.5, seed=seed) for seed in range(3)),
    KeyScaling(gain=0.5),
)
_GRADIENT, _BATCH = 32, 8


def calibrated(model: SteeredModel) -> ProjectionBank:
    """The model's bank.

    Raises:
        SettingError: it is not calibrated.
    """
    if not isinstance(model.bank, ProjectionBank) or model.bank.calibration is None:
        raise SettingError("the bank of this model was not calibrated: give a model such as smollm2")
    return model.bank


def fresh_facts(model: SteeredModel, seed: int) -> list[Fact]:
    """Known development facts that calibration with this seed neither measured on nor took gradients from."""
    bank = calibrated(model)
    assert bank.calibration is not None
    hf_model = model.hf_model
    known = known_facts(hf_model, model.tokenizer, find_key_sites(hf_model), load_facts(), lambda *_: None)
    measured = bank.calibration.measured or bank.calibration.trials[0].examples
    sides = Sides.of(known, measured, seed)
    used = {record.meta["fact"] for record in sides.training_records("conflict", _GRADIENT, seed)}
    groups = {subject_of(fact) for fact in sides.training if fact.id in used}
    return [fact for fact in sides.training if subject_of(fact) not in groups]


@app.command()
def first_token(model: Name = "smollm2", n: Count = 64, seed: int = 0) -> None:
    """Which answer is likelier, and how far unrelated highlights move the next token: methods on the bank's heads."""
    loaded = SteeredModel.from_pretrained(model)
    facts = fresh_facts(loaded, seed)
    sites, bank = find_key_sites(loaded.hf_model), calibrated(loaded)
    n = min(n, len(facts))
    conflicts, unrelated = (
        record_examples(
            loaded.tokenizer,
            questions(kind, "development", n, seed, facts=facts, passages=(3, 4)),
            {fact.id: fact for fact in facts},
        )
        for kind in ("conflict", "irrelevant")
    )
    typer.echo(f"{len(conflicts)} conflicts, {len(unrelated)} unrelated; heads: {bank.learning.heads}")
    followed: dict[str, list[bool]] = {}
    plain: torch.Tensor | None = None
    for method in (None, *METHODS):
        edits = None if method is None else method.edits(bank, sites)
        with torch.inference_mode():
            margin = torch.zeros(len(conflicts))
            for chosen in batches(conflicts, _BATCH):
                some = [conflicts[i] for i in chosen]
                margin[chosen] = margins(next_scores(loaded.hf_model, sites, some, edits), some)
            order = list(batches(unrelated, _BATCH))
            scores = torch.cat([next_scores(loaded.hf_model, sites, [unrelated[i] for i in b], edits) for b in order])
        plain = scores if plain is None else plain
        moved = divergence(plain, scores).tolist()
        name = "plain" if method is None else repr(method)
        followed[name] = (margin > 0).tolist()
        low, high = mean_interval(moved)
        first, last = mean_interval(margin.tolist())
        typer.echo(
            f"{name} | {Rate.of(followed[name])} | {margin.mean():+.2f} [{first:+.2f}, {last:+.2f}] "
            f"| {mean(moved):.3f} [{max(low, 0):.3f}, {high:.3f}]"
        )
    names = list(followed)
    seka = repr(METHODS[0])
    for other in names:
        typer.echo(f"p of {seka} against {other}: {mcnemar(followed[seka], followed[other]):.3f}")


@app.command()
def fading(model: Name = "smollm2", n: Count = 48, tokens: int = 32, seed: int = 0) -> None:
    """Generated answers of the suggested method with each way of fading."""
    loaded = SteeredModel.from_pretrained(model)
    facts = fresh_facts(loaded, seed)
    usual = suggested(calibrated(loaded))
    assert isinstance(usual, KeyEditing)
    fades = (None, 8, "sentence")
    ways = [("plain", None), *((f"fade={fade!r}", usual.model_copy(update={"fade": fade})) for fade in fades)]
    kinds: tuple[Kind, ...] = ("conflict", "novel")
    for name, method in ways:
        cells = []
        for kind in kinds:
            records = questions(kind, "development", n, seed, facts=facts, passages=(3, 3))
            texts = answers_to(loaded, records, method, tokens)
            right = [record.is_right(text) for record, text in zip(records, texts, strict=True)]
            cells.append(f"{kind} {Rate.of(right)}, repeated {mean(map(repetition, texts)):.3f}")
        typer.echo(f"{name} | " + " | ".join(cells))


if __name__ == "__main__":
    app()
