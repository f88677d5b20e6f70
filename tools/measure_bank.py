"""What docs/how-to/calibrate.md shows of subspaces that are learned in other ways, on the heads of a model's bank.

``python -m tools.measure_bank subspaces`` asks about development facts that the model knows and that its calibration
neither measured on nor took gradients from (but a training of vectors saw them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean
from typing import Annotated

import torch
import typer
from torch import Tensor

from seka_rag.bank import ProjectionBank
from seka_rag.bench.curves import at_most
from seka_rag.bench.rates import Rate, mean_interval
from seka_rag.errors import SettingError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.read import read_last_queries
from seka_rag.hf.sites import KeySites
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.learning.examples import Example, record_examples
from seka_rag.learning.queries import question_prompt
from seka_rag.learning.recall import recalled_facts
from seka_rag.learning.scores import Edits, batches, divergence, margins, next_scores
from seka_rag.learning.sides import Sides, known_facts, subject_of
from seka_rag.learning.statistics import KeyStatistics, collect_statistics
from seka_rag.learning.tasks.lookup import template_triples
from seka_rag.model.steered import SteeredModel
from seka_rag.ops.projection import keep_columns
from seka_rag.ops.projection import subspaces as subspace
from seka_rag.questions.facts import Fact, load_facts
from seka_rag.questions.kinds import questions
from seka_rag.steering.key_editing import KeyEditing
from seka_rag.steering.random_projection import RandomProjection
from seka_rag.steering.seka import Seka

app = typer.Typer(add_completion=False)
Count = Annotated[int, typer.Option(min=8, help="Questions of each kind.")]
Name = Annotated[str, typer.Option(help="A model with a calibrated bank.")]

GAINS, TRIPLES = (0.25, 0.5, 1.0), 240
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
    recalled = {fact.id for fact in recalled_facts(hf_model, model.tokenizer, known)}
    measured = bank.calibration.measured or bank.calibration.trials[0].examples
    sides = Sides.of(known, recalled, measured, seed)
    used = {record.meta["fact"] for record in sides.training_records("conflict", _GRADIENT, seed)}
    groups = {subject_of(fact) for fact in sides.training if fact.id in used}
    return [fact for fact in sides.training if subject_of(fact) not in groups]


@dataclass(frozen=True)
class Line:
    """What one way of steering does.

    Attributes:
        margin: of each conflict, ``log p(evidence) - log p(remembered)``.
        moved: of each unrelated highlight, the disturbance in nats.
    """

    margin: list[float]
    moved: list[float]

    @property
    def followed(self) -> list[bool]:
        return [m > 0 for m in self.margin]

    def __str__(self) -> str:
        low, high = mean_interval(self.moved)
        first, last = mean_interval(self.margin)
        return (
            f"{Rate.of(self.followed)} | {mean(self.margin):+.2f} [{first:+.2f}, {last:+.2f}] "
            f"| {mean(self.moved):.3f} [{max(low, 0):.3f}, {high:.3f}]"
        )


class FirstTokens:
    """Conflicts and unrelated questions about fresh facts, and what edits do to their next tokens."""

    def __init__(self, model: SteeredModel, n: int, seed: int) -> None:
        facts = fresh_facts(model, seed)
        self.hf_model, self.sites = model.hf_model, find_key_sites(model.hf_model)
        self.conflicts, self.unrelated = (
            record_examples(
                model.tokenizer,
                questions(kind, "development", min(n, len(facts)), seed, facts=facts, passages=(3, 4)),
                {fact.id: fact for fact in facts},
            )
            for kind in ("conflict", "irrelevant")
        )

    @cached_property
    def _plain(self) -> Tensor:
        return self._scores(self.unrelated, None)

    def line(self, edits: Edits | None) -> Line:
        margin = margins(self._scores(self.conflicts, edits), self.conflicts)
        return Line(margin.tolist(), divergence(self._plain, self._scores(self.unrelated, edits)).tolist())

    @torch.inference_mode()
    def _scores(self, examples: Sequence[Example], edits: Edits | None) -> Tensor:
        parts = [
            (b, next_scores(self.hf_model, self.sites, [examples[i] for i in b], edits))
            for b in batches(examples, _BATCH)
        ]
        scores = torch.empty(len(examples), parts[0][1].shape[-1])
        for chosen, found in parts:
            scores[chosen] = found
        return scores


@app.callback()
def main() -> None:
    """Measure what a bank could be."""


@app.command()
def subspaces(model: Name = "smollm2", n: Count = 64, seed: int = 0) -> None:
    """SEKA with subspaces that were learned in other ways: on the same heads, of the same ranks, at several gains."""
    loaded = SteeredModel.from_pretrained(model)
    bank = calibrated(loaded)
    measure = FirstTokens(loaded, n, seed)
    triples = template_triples(TRIPLES, seed=seed)
    statistics = collect_statistics(loaded.hf_model, loaded.tokenizer, triples)
    asked = [question_prompt(loaded.tokenizer, triple, i % 2 == 1) for i, triple in enumerate(triples)]
    plain = measure.line(None)
    typer.echo(f"{len(measure.conflicts)} conflicts, {len(measure.unrelated)} unrelated; heads: {bank.learning.heads}")
    typer.echo(f"plain | {plain}")
    ways = {**learned_subspaces(measure.sites, statistics, asked), "random": None}
    for name, directions in ways.items():
        for seed_of in range(1 if directions else 3):
            points = [(0.0, Rate.of(plain.followed).value)]
            for gain in GAINS:
                method: KeyEditing
                if directions is None:
                    method, chosen = RandomProjection(gain=gain, seed=seed_of), bank
                else:
                    method, chosen = Seka(gain=gain), with_directions(bank, directions)
                line = measure.line(method.edits(chosen, measure.sites))
                points.append((mean(line.moved), Rate.of(line.followed).value))
                typer.echo(f"{name}, gain {gain:g} | {line}")
            typer.echo(f"{name} at .1 and .2 nats | {at_most(points, 0.1):.3f} | {at_most(points, 0.2):.3f}")


def learned_subspaces(
    sites: KeySites, statistics: KeyStatistics, asked: Sequence[TokenizedPrompt]
) -> dict[str, dict[int, Tensor]]:
    """Ways of learning directions: layer -> ``[H, D, D]`` orthonormal columns, the most important first.

    *as learned* is the paper's ``H^T H+``, *difference* ``H^T H+ - H^T H-``, *centred* ``H^T H+`` without the product of the
    mean relevant key with itself, *queries* those of the last tokens of prompts that ask, all query heads of a key head.
    """
    n = statistics.tokens
    mean_key = statistics.mean_relevant / n
    ways: dict[str, dict[int, Tensor]] = {
        "as learned": dict(enumerate(statistics.relevant / n)),
        "difference": dict(enumerate((statistics.relevant - statistics.irrelevant) / n)),
        "centred": dict(enumerate(statistics.relevant / n - mean_key[..., None] * mean_key[..., None, :])),
        "queries": {},
    }
    for prompt in asked:
        queries = read_last_queries(sites, torch.tensor([prompt.ids]), torch.tensor([len(prompt) - 1]))
        for layer, found in queries.items():  # [1, Q, D]
            q = found[0].double().unflatten(0, (sites.heads, -1))
            power = torch.einsum("hgd,hge->hde", q, q)
            ways["queries"][layer] = ways["queries"].get(layer, 0) + power
    return {name: {layer: subspace(omega)[0] for layer, omega in way.items()} for name, way in ways.items()}


def with_directions(bank: ProjectionBank, directions: Mapping[int, Tensor]) -> ProjectionBank:
    """A bank with the first of other directions: the same heads, the same number of each head."""
    ranks = bank.ranks
    positive = {
        layer: keep_columns(
            directions[layer][..., : int(ranks[layer].max())], torch.zeros_like(ranks[layer]), ranks[layer]
        ).float()
        for layer in bank.layers
    }
    return ProjectionBank(bank.model, positive)


if __name__ == "__main__":
    app()
