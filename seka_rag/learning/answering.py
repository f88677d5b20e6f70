"""What a model, plain or steered, answers to development questions, and how these answers are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from seka_rag.hf.output import StopOnText, cut_at_stop
from seka_rag.hf.tokens import TokenizedPrompt, by_length, end_ids, end_texts, pad, pad_id
from seka_rag.hf.types import Tokenizer, transformer
from seka_rag.learning.examples import user_message
from seka_rag.learning.resume import Steps, short_digest
from seka_rag.learning.trials import Candidate
from seka_rag.questions.answers import repetition
from seka_rag.questions.kinds import Kind
from seka_rag.questions.records import Record
from seka_rag.steering.base import steer

#: Kinds by which a setting is chosen, and those that are only reported.
JUDGED: tuple[Kind, ...] = ("conflict", "agreement", "novel", "irrelevant")
REPORTED: tuple[Kind, ...] = ("wrong",)
NEW_TOKENS, _BATCH = 24, 32


@dataclass(frozen=True)
class Answers:
    """Answers to the questions of one kind, in their order.

    Attributes:
        right: whether each says what the evidence says; without evidence, what memory says.
        repeated: share of its word 3-grams that stood there before.
        stopped: whether it ended by itself.
    """

    right: tuple[bool, ...]
    repeated: tuple[float, ...]
    stopped: tuple[bool, ...]

    def __add__(self, other: Answers) -> Answers:
        return Answers(self.right + other.right, self.repeated + other.repeated, self.stopped + other.stopped)

    def first(self, count: int) -> Answers:
        """Those to the first questions."""
        return Answers(self.right[:count], self.repeated[:count], self.stopped[:count])


#: Answers by kind.
ByKind: TypeAlias = Mapping[Kind, Answers]


class Answering:
    """Generates answers of a model, greedily, to questions whose highlights are those of the records; each once.

    Args:
        records: questions of each kind.
        steps: keeps what was answered.
    """

    def __init__(
        self, hf_model: nn.Module, tokenizer: Tokenizer, records: Mapping[Kind, Sequence[Record]], steps: Steps
    ) -> None:
        self.hf_model, self.tokenizer, self.steps = hf_model, tokenizer, steps
        self.records = {kind: list(some) for kind, some in records.items()}
        self._answered: dict[str, list[tuple[bool, float, bool]]] = {}
        self._prompts = {
            kind: [user_message(tokenizer, r.message) for r in some] for kind, some in self.records.items()
        }
        self.digest = short_digest([r.model_dump() for some in self.records.values() for r in some])

    def __call__(
        self,
        candidate: Candidate | None,
        kinds: Sequence[Kind],
        part: range,
        progress: Callable[[int], None] = lambda _: None,
    ) -> dict[Kind, Answers]:
        """Answers to a part of the questions of some kinds; None as candidate is the plain model.

        Args:
            progress: called with the number of answers that are ready, since the last call.
        """
        return {kind: self._of_kind(candidate, kind, part, progress) for kind in kinds}

    def _of_kind(
        self, candidate: Candidate | None, kind: Kind, part: range, progress: Callable[[int], None]
    ) -> Answers:
        about = None if candidate is None else [candidate.method.as_dict(), candidate.bank.digest]
        name = short_digest([about, kind, self.digest, part.start, part.stop, NEW_TOKENS, _BATCH])
        if name not in self._answered:
            self._answered[name] = self.steps.json(f"answers-{name}", lambda: self._ask(candidate, kind, part))
        progress(len(part))
        right, repeated, stopped = zip(*self._answered[name], strict=True)
        return Answers(right, repeated, stopped)

    def _ask(self, candidate: Candidate | None, kind: Kind, part: range) -> list[tuple[bool, float, bool]]:
        records = [self.records[kind][i] for i in part]
        prompts = [self._prompts[kind][i] for i in part]
        found: dict[int, tuple[bool, float, bool]] = {}
        for some in by_length(prompts, _BATCH):
            here = [prompts[i] for i in some]
            answered = generate(self.hf_model, self.tokenizer, here, candidate)
            for i, (text, stopped) in zip(some, answered, strict=True):
                found[i] = (records[i].is_right(text), repetition(text), stopped)
        return [found[i] for i in range(len(prompts))]


def generate(
    hf_model: nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[TokenizedPrompt],
    candidate: Candidate | None = None,
) -> list[tuple[str, bool]]:
    """Greedy answers to a batch of prompts, of up to ``NEW_TOKENS`` tokens, and whether each ended by itself.

    Without a chat template an answer is one line.

    Args:
        candidate: None for the plain model.
    """
    padding = pad_id(tokenizer)
    batch = pad(prompts, padding)
    device = next(hf_model.parameters()).device
    ids, attention = batch.input_ids.to(device), batch.attention_mask.to(device)
    steering: AbstractContextManager[object] = nullcontext()
    if candidate is not None:
        method, bank = candidate.method, candidate.bank
        known = method.prepare(hf_model, bank, ids, attention, tokenizer)
        steering = steer(hf_model, bank, batch.weights, method, prepared=known)
    stop = end_texts(tokenizer)
    criteria = [StopOnText(tokenizer.decode, ids.shape[1], stop)] if stop else []
    with torch.inference_mode(), steering:
        rows = transformer(hf_model).generate(
            input_ids=ids,
            attention_mask=attention,
            pad_token_id=padding,
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            stopping_criteria=criteria,
        )
    ends = end_ids(hf_model, tokenizer)
    found = []
    for row in rows[:, ids.shape[1] :].tolist():
        end = next((i for i, token in enumerate(row) if token in ends), None)
        text, stopped = cut_at_stop(tokenizer.decode(row[:end], skip_special_tokens=True), stop)
        found.append((text, stopped or end is not None))
    return found
