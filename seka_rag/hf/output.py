"""From generated tokens to text: stop strings, and pieces of text as they come.

``generate`` of transformers takes these as they are: it asks for callables, not for its base classes, whose import is slow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seka_rag.hf.forms import AnswerForm


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the earliest stop string, and whether there was one."""
    found = [i for i in (text.find(s) for s in stop) if i >= 0]
    return (text[: min(found)], True) if found else (text, False)


class StopOnText:
    """Ends a row as soon as its new text holds a stop string, whatever tokens spell it."""

    def __init__(self, decode: Callable[[list[int]], str], prompt_length: int, stop: Sequence[str]) -> None:
        self.decode, self.prompt_length, self.stop = decode, prompt_length, stop

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        rows = input_ids[:, self.prompt_length :].tolist()
        done = [cut_at_stop(self.decode(ids), self.stop)[1] for ids in rows]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


class StopOnEvent:
    """Ends generation when somebody no longer wants it."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


class StopAfter:
    """Ends generation when its time is over; ``over`` then says so."""

    def __init__(self, seconds: float) -> None:
        self.end, self.over = time.monotonic() + seconds, False

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        self.over = time.monotonic() >= self.end
        return torch.full((input_ids.shape[0],), self.over, dtype=torch.bool, device=input_ids.device)


class StopRows:
    """Ends each row of a batch by itself: at its length, when its time is over, or when nobody wants it any more.

    Args:
        prompt_length: T, of the padded prompts.
        lengths: most new tokens of each row.
        seconds: from now on; None for any time.
        events: set to end the row.

    Attributes:
        over: rows whose time was over before all rows had ended.
    """

    def __init__(
        self,
        prompt_length: int,
        lengths: Sequence[int],
        seconds: Sequence[float | None],
        events: Sequence[threading.Event | None],
    ) -> None:
        now = time.monotonic()
        self.prompt_length, self.lengths, self.events = prompt_length, lengths, events
        self.ends = [None if s is None else now + s for s in seconds]
        self.over = [False] * len(lengths)

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        now, new = time.monotonic(), input_ids.shape[1] - self.prompt_length
        self.over = [o or (end is not None and now >= end) for o, end in zip(self.over, self.ends, strict=True)]
        done = [
            over or new >= length or (event is not None and event.is_set())
            for over, length, event in zip(self.over, self.lengths, self.events, strict=True)
        ]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


class TokenScore(NamedTuple):
    """A token of an answer: its log-probability, and the most likely ones in its place with theirs."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class TokenScores:
    """Records the log-probabilities of an answer's tokens, as they were chosen from: after penalties and grammars, before
    temperature and what cuts the distribution. It holds the scores of one step at a time.

    Args:
        top: how many of the most likely tokens to keep.

    Attributes:
        rows: for each row of the batch, its tokens so far, end token and padding included.
    """

    def __init__(self, top: int) -> None:
        self.top = top
        self.rows: list[list[TokenScore]] = []
        self._step: Tensor | None = None  # [B, V]

    @property
    def options(self) -> dict[str, list[Callable[..., Tensor]]]:
        """For ``generate``: what sees the scores before a token is chosen, and what sees the token afterwards."""
        return {"logits_processor": [self._before], "stopping_criteria": [self._after]}

    def _before(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._step = scores.float().log_softmax(-1)
        return scores

    def _after(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        assert self._step is not None
        chosen = input_ids[:, -1:]
        values = self._step.gather(1, chosen.to(self._step.device))[:, 0].tolist()
        best = self._step.topk(min(self.top, self._step.shape[1])) if self.top else None
        self.rows = self.rows or [[] for _ in values]
        for i, (row, token, value) in enumerate(zip(self.rows, chosen[:, 0].tolist(), values, strict=True)):
            top = () if best is None else zip(best.indices[i].tolist(), best.values[i].tolist(), strict=True)
            row.append(TokenScore(token, value, tuple(top)))
        return torch.zeros(len(values), dtype=torch.bool, device=input_ids.device)


class TextPieces:
    """Hands on new text of one sequence as it is generated; the pieces add up to the final text.

    What could still change is held back: half a character, the beginning of a stop string, and tool calls.
    """

    def __init__(self, form: AnswerForm, stop: Sequence[str], ends: set[int], emit: Callable[[str], None]) -> None:
        self.form, self.stop, self.ends, self.emit = form, stop, ends, emit
        self.ids: list[int] = []
        self.sent = ""
        self.prompt_seen = False

    def put(self, value: Tensor) -> None:
        if not self.prompt_seen:  # the first call brings the prompt
            self.prompt_seen = True
            return
        self.ids += value.flatten().tolist()
        text, stopped = self._text()
        if not stopped:
            if text.endswith("\ufffd"):
                return
            text = text[: len(text) - _held_back(text, self.stop)]
        self._send(self.form.visible(text))

    def end(self) -> None:
        self._send(self.form.read(self._text()[0]).content)

    def _text(self) -> tuple[str, bool]:
        return cut_at_stop(self.form.decode([i for i in self.ids if i not in self.ends]), self.stop)

    def _send(self, text: str) -> None:
        if text.startswith(self.sent) and len(text) > len(self.sent):
            self.emit(text[len(self.sent) :])
            self.sent = text


class RowPieces:
    """``TextPieces`` of each row of a batch; a row that has ended is followed by padding, which is no text.

    Args:
        emitters: called with the pieces of each row.
        lengths: most new tokens of each row.
    """

    def __init__(
        self,
        form: AnswerForm,
        stop: Sequence[str],
        ends: set[int],
        emitters: Sequence[Callable[[str], None]],
        lengths: Sequence[int],
    ) -> None:
        self.rows = [TextPieces(form, stop, ends, emit) for emit in emitters]
        self.ends, self.lengths = ends, lengths
        self.prompts_seen = False

    def put(self, value: Tensor) -> None:
        if not self.prompts_seen:  # the first call brings the prompts
            self.prompts_seen = True
            for row in self.rows:
                row.prompt_seen = True
            return
        for row, length, token in zip(self.rows, self.lengths, value.flatten(), strict=True):
            if len(row.ids) < length and not (row.ids and row.ids[-1] in self.ends):
                row.put(token)

    def end(self) -> None:
        for row in self.rows:
            row.end()


def _held_back(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of ``text`` that begins a stop string."""
    longest = max((len(s) for s in stop), default=0)
    for n in range(min(longest - 1, len(text)), 0, -1):
        if any(s.startswith(text[-n:]) for s in stop):
            return n
    return 0
