"""Light training of what steers, by gradient descent, the model frozen."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from seka_rag.errors import LearningError
from seka_rag.hf.find import find_key_sites
from seka_rag.learning.examples import Example
from seka_rag.learning.resume import Steps
from seka_rag.learning.scores import divergence, margins, next_scores
from seka_rag.learning.trainable import Tensors, Trainable

_KEEP_EVERY, _MOMENTS = 10, ("exp_avg", "exp_avg_sq")


class TuningSettings(BaseModel):
    """How it is trained, whatever is trained.

    Attributes:
        steps: gradient steps (Adam; the rate falls to 0 over the last 40% of them).
        rate: its learning rate, in units of the elements of what is trained; a kind of tensor may take a share of it.
        conflicts, unrelated: examples of each kind in a step.
        margin: nats by which the evidence's answer is to lead the remembered one; beyond it little is gained.
        disturbance: nats of KL(plain, steered) on unrelated evidence that cost nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=60, ge=1)
    rate: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    conflicts: int = Field(default=6, ge=1)
    unrelated: int = Field(default=4, ge=1)
    margin: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    disturbance: float = Field(default=0.05, ge=0, allow_inf_nan=False)


def tune(
    hf_model: nn.Module,
    trained: Trainable,
    conflicts: Sequence[Example],
    unrelated: Sequence[Example],
    settings: TuningSettings | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    steps: Steps | None = None,
) -> dict[str, Tensor]:
    """Train what steers, so that the evidence is followed and nothing else moves.

    The loss of a step is ``mean softplus(margin - m) - 0.1 mean log p(evidence)`` over conflicts, with ``m`` the margin of
    ``scores.margins``, plus 4 times what ``KL(plain, steered)`` on unrelated evidence exceeds ``disturbance``.
    The model's weights get no gradient and do not change.

    Args:
        trained: what is trained, and from where it starts.
        conflicts: the highlighted evidence contradicts what the model remembers.
        unrelated: what is highlighted does not bear on the question.
        seed: of the choice of examples.
        steps: where the state is kept every 10 steps, and taken up again.

    Returns:
        The tensors, by the names of ``trained.start``.

    Raises:
        LearningError: no examples of a kind.
    """
    settings = settings or TuningSettings()
    if not conflicts or not unrelated:
        raise LearningError("tuning needs conflicts and unrelated examples")
    sites, chance = find_key_sites(hf_model), random.Random(seed)
    state = f"training-{type(trained).__name__.lower()}"
    with torch.inference_mode(False), torch.enable_grad():
        tensors = {name: t.clone().float().requires_grad_(True) for name, t in trained.start().items()}
        rates = [settings.rate * trained.slower.get(name.partition(".")[0], 1.0) for name in tensors]
        adam = torch.optim.Adam([{"params": [t]} for t in tensors.values()])
        done = 0 if steps is None else _resume(steps, state, adam, tensors)
        if progress and done:
            progress(done)
        for step in range(settings.steps):
            some = _draw(chance, conflicts, settings.conflicts)
            others = _draw(chance, unrelated, settings.unrelated)
            if step < done:
                continue
            falling = min(1.0, (settings.steps - step) / (0.4 * settings.steps))
            for group, rate in zip(adam.param_groups, rates, strict=True):
                group["lr"] = rate * falling
            edits = trained.edits(tensors)
            scores = next_scores(hf_model, sites, some, edits)
            evidence = scores[torch.arange(len(some)), torch.tensor([e.evidence for e in some])]
            following = F.softplus(settings.margin - margins(scores, some)).mean() - 0.1 * evidence.mean()
            with torch.no_grad():
                plain = next_scores(hf_model, sites, others, None)
            moved = divergence(plain, next_scores(hf_model, sites, others, edits)).mean()
            loss = following + 4 * F.relu(moved - settings.disturbance)
            gradients = torch.autograd.grad(loss, list(tensors.values()))
            for tensor, gradient in zip(tensors.values(), gradients, strict=True):
                tensor.grad = gradient
            adam.step()
            if steps is not None and ((step + 1) % _KEEP_EVERY == 0 or step + 1 == settings.steps):
                steps.write(state, _state(adam, tensors, step + 1))
            if progress:
                progress(1)
    return {name: t.detach() for name, t in tensors.items()}


def _state(adam: torch.optim.Adam, tensors: Tensors, done: int) -> dict[str, Tensor]:
    """What is trained and what Adam keeps of it, after ``done`` steps."""
    moments = {f"{name}.{moment}": adam.state[t][moment] for name, t in tensors.items() for moment in _MOMENTS}
    return {"done": torch.tensor(done), **{name: t.detach() for name, t in tensors.items()}, **moments}


def _resume(steps: Steps, name: str, adam: torch.optim.Adam, tensors: Tensors) -> int:
    """Take up a kept state; how many steps are done."""
    state = steps.read(name)
    if state is None:
        return 0
    with torch.no_grad():
        for key, tensor in tensors.items():
            tensor.copy_(state[key])
            moments = {moment: state[f"{key}.{moment}"] for moment in _MOMENTS}
            adam.state[tensor] = {"step": state["done"].float(), **moments}
    return int(state["done"])


def _draw(chance: random.Random, examples: Sequence[Example], count: int) -> list[Example]:
    return chance.sample(list(examples), min(count, len(examples)))
