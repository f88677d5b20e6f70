"""What bank.json says about a bank."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from seka_rag.bank.files import TensorManifest
from seka_rag.hf.identity import ModelIdentity

FORMAT_VERSION = 3


class Learning(BaseModel):
    """How a bank was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "triples"
    triples: int = 0
    tokens: int = 0
    skipped: int = 0
    energy: float | None = None
    heads: str = "all with a gap"


class Trial(BaseModel):
    """One setting that a calibration tried.

    Attributes:
        steering: the method, in stored form.
        heads: how many heads it steers, and how they were chosen.
        examples: of each kind.
        following: share of conflicts in which the evidence's answer is likelier than the remembered one.
        margin: mean over conflicts of log p(evidence's answer) - log p(remembered one), in nats.
        disturbance: mean over unrelated evidence of KL(plain, steered) at the answer, in nats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steering: dict[str, Any] | None
    heads: str
    examples: int
    following: float
    margin: float
    disturbance: float


class KindAnswered(BaseModel):
    """Generated answers to questions of one kind.

    Attributes:
        n: how many.
        right: of these, right ones.
        won, lost: right only with steering, and only without.
        repetition: mean share of an answer's word 3-grams that stood there before.
        stopped: how many answers ended by themselves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    n: int
    right: int
    won: int
    lost: int
    repetition: float
    stopped: int


class Answered(BaseModel):
    """What a finalist of a calibration answered.

    Attributes:
        steering, heads, disturbance: as in its trial; of the plain model None, "none" and 0.
        gain: mean over the kinds that count of the share of right answers, less that of the plain model.
        harm: why it could not be chosen; None if nothing speaks against it.
        kinds: those that count and those that are only reported.
        chosen: whether it is what the bank suggests.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steering: dict[str, object] | None
    heads: str
    disturbance: float
    gain: float
    harm: str | None
    kinds: tuple[KindAnswered, ...]
    chosen: bool = False


class Calibration(BaseModel):
    """How the suggested method was found.

    Attributes:
        budget: most disturbance that was allowed, in nats.
        data: digest of the examples.
        seed: of examples and training.
        trials: the plain model first, then every setting of the last round, controls, and strengths that were tried because a
            stronger one did harm; the chosen setting is among them.
        known: facts of which the model preferred the true answer; None where it was not recorded.
        recalled: of these, facts that it answered rightly without passages; None where it was not asked.
        trained: of these, facts that gave gradients and training; trials are of other subjects.
        measured: facts that trials and answers are about, all of them recalled; None where it was as many as examples.
        answers: the plain model first, then the finalists, in the order of their gain; empty where nobody was asked.
        questions: digest of the questions that were answered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget: float
    data: str
    seed: int
    trials: tuple[Trial, ...]
    known: int | None = None
    recalled: int | None = None
    trained: int | None = None
    measured: int | None = None
    answers: tuple[Answered, ...] = ()
    questions: str | None = None

    def disturbances(self, method: str, field: str) -> list[tuple[float, float]]:
        """The strengths at which a method was measured, the weakest first, each with its disturbance.

        Of the chosen method only trials on the chosen heads count: on others, or with other training, it is another setting.
        """
        chosen = next((a for a in self.answers if a.chosen and a.steering and a.steering["method"] == method), None)
        return sorted(
            (abs(t.steering[field]), t.disturbance)
            for t in self.trials
            if t.steering is not None and t.steering["method"] == method and field in t.steering
            if chosen is None or t.heads == chosen.heads
        )


class Header(BaseModel):
    """The content of bank.json."""

    model_config = ConfigDict(extra="forbid")

    format_version: int
    model: ModelIdentity
    learning: Learning
    steering: dict[str, object]
    calibration: Calibration | None = None
    tensors: TensorManifest
