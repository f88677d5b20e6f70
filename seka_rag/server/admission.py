"""Admission of requests: a number of generations run at once, a number of requests wait, and those that are alike run
together as one batch. A generation ends when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Hashable
from dataclasses import dataclass, field, replace

from seka_rag.errors import BusyError, GenerationTimeoutError
from seka_rag.model.call import Call
from seka_rag.model.generation import Generation
from seka_rag.model.rows import Outcome, row_key, run_rows
from seka_rag.model.steered import SteeredModel
from seka_rag.server.errors import Unavailable
from seka_rag.server.settings import ServerSettings

#: Most tokens of a batch, padding included, and most of them for each one that is no padding.
MAX_BATCH_TOKENS, MAX_PADDING = 16_384, 2.0


class Cancel(threading.Event):
    """Set when nobody waits for an answer any more. It is looked at after each token, and notes when that was first."""

    first_token: float | None = None

    def is_set(self) -> bool:
        if self.first_token is None:
            self.first_token = time.monotonic()
        return super().is_set()


@dataclass(eq=False)
class Ticket:
    """One admitted request.

    Attributes:
        call: what to generate.
        deadline: time (``time.monotonic``) at which it ends, done or not.
        key: what other requests must share to run in one batch with it; None if it runs alone.
        events: pieces of text, at last the answers or an error.
        cancel: set when nobody waits for the answer any more.
        timer: ends the wait at the deadline.
        started: when its generation began.
        rows: how many requests run in its batch.
    """

    call: Call
    deadline: float
    key: Hashable | None
    events: asyncio.Queue[str | Outcome] = field(default_factory=asyncio.Queue)
    cancel: Cancel = field(default_factory=Cancel)
    timer: asyncio.TimerHandle | None = None
    started: float | None = None
    rows: int = 0


class Admission:
    """Slots for generations, and a queue before them. A slot is freed when its generation ends, read or not.

    Everything but the generations runs in one event loop.
    """

    def __init__(self, model: SteeredModel, settings: ServerSettings) -> None:
        self.model, self.settings = model, settings
        self.running: set[tuple[Ticket, ...]] = set()
        self.waiting: list[Ticket] = []
        self.closed = False

    def check(self) -> None:
        """Raise where a new request would be refused.

        Raises:
            BusyError: all slots are taken and as many wait as may.
            Unavailable: the server is about to end.
        """
        if self.closed:
            raise Unavailable("the server is about to end: ask another one")
        free = self.settings.max_concurrent - len(self.running)
        if len(self.waiting) >= self.settings.max_queue + free:
            raise BusyError(
                f"{sum(map(len, self.running))} requests run and {len(self.waiting)} wait already: try again later"
            )

    def ticket(self, call: Call, deadline: float, *, stream: bool) -> Ticket:
        """Admit a request: it has a slot or waits for one.

        Args:
            deadline: time (``time.monotonic``) at which it ends, done or not.
            stream: whether pieces of text are wanted.

        Raises:
            BusyError: too many wait.
        """
        self.check()
        loop = asyncio.get_running_loop()
        ticket = Ticket(call, deadline, row_key(call) if self.settings.max_batch > 1 else None)
        pieces = (lambda piece: _later(loop, ticket.events.put_nowait, piece)) if stream else None
        ticket.call = replace(call, pieces=pieces, cancel=ticket.cancel)
        ticket.timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._give_up, ticket)
        self.waiting.append(ticket)
        self._start_next(loop)
        return ticket

    async def pieces(self, ticket: Ticket) -> AsyncGenerator[str | list[Generation], None]:
        """Pieces of text if they are wanted, at last the answers. Leaving the loop ends the generation.

        Raises:
            GenerationTimeoutError: no slot, or no end, by the deadline.
        """
        try:
            while isinstance(event := await ticket.events.get(), str):
                yield event
            if isinstance(event, Exception):
                raise event
            yield event
        finally:
            self.leave(ticket)

    def leave(self, ticket: Ticket) -> None:
        """The answer is not waited for any more; its slot is freed when its generation has ended."""
        ticket.cancel.set()
        if ticket.timer is not None:
            ticket.timer.cancel()
        if ticket in self.waiting:
            self.waiting.remove(ticket)

    def stop(self) -> None:
        """End what runs and waits, with an error, and admit nothing more."""
        self.closed = True
        for ticket in [*self.waiting, *(t for group in self.running for t in group)]:
            ticket.cancel.set()
            ticket.events.put_nowait(Unavailable("the server ended before the answer was ready"))
        self.waiting.clear()

    def _start_next(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self.closed and len(self.running) < self.settings.max_concurrent:
            busy = any(group[0].call.samples for group in self.running)  # draws come from one generator, in turn
            first = next((t for t in self.waiting if not (busy and t.call.samples)), None)
            if first is None:
                return
            group = batch(first, self.waiting, self.settings.max_batch, self.model.context_length)
            self.waiting = [t for t in self.waiting if t not in group]
            self.running.add(group)
            threading.Thread(target=self._run, args=(group, loop), daemon=True, name="seka-generate").start()

    def _run(self, group: tuple[Ticket, ...], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own."""
        now = time.monotonic()
        for ticket in group:
            ticket.started, ticket.rows = now, len(group)
        outcomes = run_rows(self.model, [replace(t.call, timeout=max(0.001, t.deadline - now)) for t in group])
        _later(loop, self._ended, group, outcomes, loop)

    def _ended(self, group: tuple[Ticket, ...], outcomes: list[Outcome], loop: asyncio.AbstractEventLoop) -> None:
        self.running.discard(group)
        for ticket, outcome in zip(group, outcomes, strict=True):
            ticket.events.put_nowait(outcome)
        self._start_next(loop)

    def _give_up(self, ticket: Ticket) -> None:
        """The answer is not waited for any longer, also where one step of the model takes too much time."""
        ticket.cancel.set()
        where = "waited for a slot" if ticket.started is None else "was being answered"
        ticket.events.put_nowait(
            GenerationTimeoutError(f"no answer within {self.settings.timeout:g} seconds: the request {where}")
        )


def batch(first: Ticket, waiting: list[Ticket], most: int, context: int | None) -> tuple[Ticket, ...]:
    """The first ticket and others that wait and may run with it, in the order of their arrival."""
    group, longest, total, answer = (
        [first],
        len(first.call.prompts[0]),
        len(first.call.prompts[0]),
        first.call.max_new_tokens,
    )
    for ticket in waiting:
        if ticket is first or first.key is None or ticket.key != first.key or len(group) >= most:
            continue
        length = len(ticket.call.prompts[0])
        top, new = max(longest, length), max(answer, ticket.call.max_new_tokens)
        padded = top * (len(group) + 1)
        if padded > min(MAX_BATCH_TOKENS, MAX_PADDING * (total + length)) or (
            context is not None and top + new > context
        ):
            continue
        group, longest, total, answer = [*group, ticket], top, total + length, new
    return tuple(group)


def _later(loop: asyncio.AbstractEventLoop, work: Callable[..., object], *args: object) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(work, *args)
