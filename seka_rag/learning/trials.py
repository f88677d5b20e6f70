"""What a calibration tries, and how a setting is measured: following against disturbance."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean

import torch
from torch import Tensor, nn

from seka_rag.bank import ProjectionBank
from seka_rag.bank.header import Trial
from seka_rag.hf.sites import KeySites
from seka_rag.learning.examples import Example
from seka_rag.learning.resume import Steps, short_digest
from seka_rag.learning.scores import Edits, batches, divergence, margins, next_scores
from seka_rag.steering.key_bias import KeyBias
from seka_rag.steering.key_editing import KeyEditing
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.seka import Seka

logger = logging.getLogger(__name__)

#: Methods and strengths that are tried on every choice of heads. All fade: it changes nothing up to the answer, where trials
#: are measured, and keeps long answers from repeating the evidence.
METHODS: tuple[KeyEditing, ...] = (
    KeyBias(bias=2.0, fade="sentence"),
    KeyBias(bias=4.0, fade="sentence"),
    KeyScaling(gain=0.5, fade="sentence"),
    KeyScaling(gain=1.0, fade="sentence"),
    Seka(gain=0.5, fade="sentence"),
    Seka(gain=1.0, fade="sentence"),
)


@dataclass(frozen=True)
class Candidate:
    """A method on some heads.

    Attributes:
        bank: holds these heads only.
        heads: how they were chosen.
        control: measured for comparison and never chosen.
        training: what was trained for it; None for nothing.
    """

    method: KeyEditing
    bank: ProjectionBank
    heads: str
    control: bool = False
    training: str | None = None


def candidates(bank: ProjectionBank, gradient: Tensor) -> list[Candidate]:
    """Every method on the heads of the largest gradient (3% and 10% of them), and on the 20% of the largest gap.

    Args:
        bank: of all heads.
        gradient: ``[L, H]`` of ``head_gradient``; a head of no positive gradient is not chosen by it.
    """
    held = (bank.ranks > 0) & (gradient > 0)
    order = gradient.where(held, torch.tensor(-torch.inf)).flatten().argsort(descending=True).tolist()
    total, width = int((bank.ranks > 0).sum()), gradient.shape[1]
    choices = {}
    for share in (0.03, 0.1):
        count = min(max(1, round(share * total)), int(held.sum()))
        if count:
            heads = [divmod(i, width) for i in order[:count]]
            choices[f"{count} of the largest gradient"] = bank.select(heads=heads)
    choices["best 20% by gap"] = bank.select(best=0.2)
    return [Candidate(method, some, name) for name, some in choices.items() for method in METHODS]


@dataclass(frozen=True)
class Measured:
    """What a setting does to some examples.

    Attributes:
        margins: of each conflict, in nats, as of ``scores.margins``.
        moved: KL(plain, steered) at each unrelated example, in nats.
    """

    margins: tuple[float, ...] = ()
    moved: tuple[float, ...] = ()

    def __add__(self, other: Measured) -> Measured:
        return Measured(self.margins + other.margins, self.moved + other.moved)

    def trial(self, steering: KeyEditing | None, heads: str) -> Trial:
        """What a bank keeps of it."""
        return Trial(
            steering=None if steering is None else steering.as_dict(),
            heads=heads,
            examples=len(self.margins),
            following=mean(m > 0 for m in self.margins),
            margin=mean(self.margins),
            disturbance=mean(self.moved),
        )


def finite(trials: Iterable[tuple[Candidate, Trial]]) -> list[tuple[Candidate, Trial]]:
    """Those whose figures are numbers: an edit may drive a model in 16 bits beyond its range. The log names the others."""
    found = []
    for candidate, trial in trials:
        if math.isfinite(trial.margin) and math.isfinite(trial.disturbance):
            found.append((candidate, trial))
        else:
            logger.warning("left out, as the model's scores are not finite with it: %r", candidate.method)
    return found


class Bench:
    """Examples on which candidates are measured, with what the plain model says of them.

    Args:
        conflicts: the highlighted evidence contradicts what the model remembers.
        unrelated: what is highlighted does not bear on the question.
    """

    def __init__(
        self,
        hf_model: nn.Module,
        sites: KeySites,
        conflicts: Sequence[Example],
        unrelated: Sequence[Example],
        batch_size: int = 8,
    ) -> None:
        self.hf_model, self.sites, self.batch_size = hf_model, sites, batch_size
        self.conflicts, self.unrelated = list(conflicts), list(unrelated)
        self._plain: dict[int, Tensor] = {}

    def measure(self, edits: Edits | None, part: range) -> Measured:
        """What edits, or none, do to a part of the examples of each kind."""
        conflicts, unrelated = (some[part.start : part.stop] for some in (self.conflicts, self.unrelated))
        found, moved = torch.zeros(len(conflicts)), torch.zeros(len(unrelated))
        with torch.inference_mode():
            for chosen in batches(conflicts, self.batch_size):
                some = [conflicts[i] for i in chosen]
                found[chosen] = margins(next_scores(self.hf_model, self.sites, some, edits), some).cpu()
            if edits is not None:
                for chosen in batches(unrelated, self.batch_size):
                    steered = next_scores(self.hf_model, self.sites, [unrelated[i] for i in chosen], edits)
                    plain = self._of_plain([part.start + i for i in chosen])
                    moved[chosen] = divergence(plain.to(steered.device), steered).cpu()
        return Measured(tuple(found.tolist()), tuple(moved.tolist()))

    def _of_plain(self, chosen: Sequence[int]) -> Tensor:
        missing = [i for i in chosen if i not in self._plain]
        if missing:
            scores = next_scores(self.hf_model, self.sites, [self.unrelated[i] for i in missing], None)
            self._plain.update(zip(missing, scores.cpu(), strict=True))
        return torch.stack([self._plain[i] for i in chosen])


@dataclass(frozen=True)
class Measure:
    """Measures candidates, each on an example once: a later round, and a run after a kill, remember what was measured."""

    bench: Bench
    steps: Steps
    _measured: dict[str, Measured] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, candidate: Candidate, count: int | None = None) -> tuple[Candidate, Trial]:
        """A candidate's trial on the first ``count`` examples of each kind, at least as many as before, or on all."""
        method = candidate.method
        name = short_digest([method.as_dict(), candidate.bank.digest, candidate.heads])
        before = self._measured.get(name, Measured())
        part = range(len(before.margins), count or len(self.bench.conflicts))
        found = self.steps.json(
            f"trial-{name}-{part.start}-{part.stop}",
            lambda: asdict(self.bench.measure(method.edits(candidate.bank, self.bench.sites), part)),
        )
        self._measured[name] = before + Measured(**{key: tuple(some) for key, some in found.items()})
        return candidate, self._measured[name].trial(method, candidate.heads)
