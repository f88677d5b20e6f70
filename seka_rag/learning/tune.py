"""Light training: the vectors that are added to highlighted keys, by gradient descent, the model frozen."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from seka_rag.errors import LearningError
from seka_rag.hf.find import find_key_sites
from seka_rag.learning.examples import Example
from seka_rag.learning.resume import Steps
from seka_rag.learning.scores import divergence, margins, next_scores
from seka_rag.ops.bias import BiasEdit

_STATE, _KEEP_EVERY, _MOMENTS = "training", 10, ("exp_avg", "exp_avg_sq")


class TuningSettings(BaseModel):
    """How vectors are trained.

    Attributes:
        steps: gradient steps (Adam; the rate falls to 0 over the last 40% of them).
        rate: its learning rate, in units of the vectors' elements.
        conflicts, unrelated: examples of each kind in a step.
        margin: nats by which the evidence's answer is to lead the remembered one; beyond it little is gained.
        disturbance: nats of KL(plain, steered) on unrelated evidence that cost nothing.
        seed: of the choice of examples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=60, ge=1)
    rate: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    conflicts: int = Field(default=6, ge=1)
    unrelated: int = Field(default=4, ge=1)
    margin: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    disturbance: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    seed: int = 0


def tune_vectors(
    hf_model: nn.Module,
    start: Mapping[int, Tensor],
    conflicts: Sequence[Example],
    unrelated: Sequence[Example],
    settings: TuningSettings | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    steps: Steps | None = None,
) -> dict[int, Tensor]:
    """Train one vector per key-value head, added to highlighted keys, so that the evidence is followed and nothing else moves.

    The loss of a step is ``mean softplus(margin - m) - 0.1 mean log p(evidence)`` over conflicts, with ``m`` the margin of
    ``scores.margins``, plus 4 times what ``KL(plain, steered)`` on unrelated evidence exceeds ``disturbance``.
    The model's weights get no gradient and do not change.

    Args:
        start: layer -> ``[H, D]``, the vectors to begin with; heads that are zero are trained too.
        conflicts: the highlighted evidence contradicts what the model remembers.
        unrelated: what is highlighted does not bear on the question.
        steps: where the state is kept every 10 steps, and taken up again.

    Returns:
        layer -> ``[H, D]``.

    Raises:
        LearningError: no examples of a kind.
    """
    settings = settings or TuningSettings()
    if not conflicts or not unrelated:
        raise LearningError("tuning needs conflicts and unrelated examples")
    sites, chance = find_key_sites(hf_model), random.Random(settings.seed)
    with torch.inference_mode(False), torch.enable_grad():
        vectors = {layer: v.clone().float().requires_grad_(True) for layer, v in start.items()}
        adam = torch.optim.Adam(list(vectors.values()), lr=settings.rate)
        done = 0 if steps is None else _resume(steps, adam, vectors)
        if progress and done:
            progress(done)
        for step in range(settings.steps):
            some = _draw(chance, conflicts, settings.conflicts)
            others = _draw(chance, unrelated, settings.unrelated)
            if step < done:
                continue
            adam.param_groups[0]["lr"] = settings.rate * min(1.0, (settings.steps - step) / (0.4 * settings.steps))
            edits = {layer: BiasEdit(torch.arange(len(v)), v, None) for layer, v in vectors.items()}
            scores = next_scores(hf_model, sites, some, edits)
            evidence = scores[torch.arange(len(some)), torch.tensor([e.evidence for e in some])]
            following = F.softplus(settings.margin - margins(scores, some)).mean() - 0.1 * evidence.mean()
            with torch.no_grad():
                plain = next_scores(hf_model, sites, others, None)
            moved = divergence(plain, next_scores(hf_model, sites, others, edits)).mean()
            loss = following + 4 * F.relu(moved - settings.disturbance)
            gradients = torch.autograd.grad(loss, list(vectors.values()))
            for vector, gradient in zip(vectors.values(), gradients, strict=True):
                vector.grad = gradient
            adam.step()
            if steps is not None and ((step + 1) % _KEEP_EVERY == 0 or step + 1 == settings.steps):
                steps.write(_STATE, _state(adam, vectors, step + 1))
            if progress:
                progress(1)
    return {layer: v.detach() for layer, v in vectors.items()}


def _state(adam: torch.optim.Adam, vectors: Mapping[int, Tensor], done: int) -> dict[str, Tensor]:
    """Vectors and what Adam keeps of each, after ``done`` steps."""
    moments = {f"{name}.{layer}": adam.state[v][name] for layer, v in vectors.items() for name in _MOMENTS}
    return {"done": torch.tensor(done), **{f"vector.{layer}": v.detach() for layer, v in vectors.items()}, **moments}


def _resume(steps: Steps, adam: torch.optim.Adam, vectors: Mapping[int, Tensor]) -> int:
    """Take up a kept state; how many steps are done."""
    state = steps.read(_STATE)
    if state is None:
        return 0
    with torch.no_grad():
        for layer, vector in vectors.items():
            vector.copy_(state[f"vector.{layer}"])
            moments = {name: state[f"{name}.{layer}"] for name in _MOMENTS}
            adam.state[vector] = {"step": state["done"].float(), **moments}
    return int(state["done"])


def _draw(chance: random.Random, examples: Sequence[Example], count: int) -> list[Example]:
    return chance.sample(list(examples), min(count, len(examples)))
