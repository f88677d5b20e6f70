"""Continuous batching of transformers, where one pass holds tokens of several requests, one after another in a single row.

A *manager* takes the requests and runs the passes in its thread. A manager that is opened inside a steered ``with`` (as
``generate_batch`` does) is made to run in the context of that ``with``, so that the taps opened there act in its thread. For
each pass it knows which tokens belong to which request; that is read here.

Transformers has no public way to do this. One public and two private methods of a manager are replaced, and private values
are read (``Manager`` lists all of them), so versions of transformers that were not tested are refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

from torch import nn

from seka_rag.errors import SekaError, SteeringError, UnsupportedModelError
from seka_rag.hf.marks import Segment
from seka_rag.hf.taps import bound_to, original, replaced
from seka_rag.hf.types import Arguments, transformer

#: Versions of transformers that the tests ran with: from the first of these, up to the second without it.
TESTED = ((5, 20), (5, 25))


class Manager(Protocol):
    """What is used of a manager (``ContinuousBatchingManager``)."""

    model: nn.Module
    continuous_batching_config: Any
    input_queue: Any
    batch_processor: Any
    background_thread_status: Any
    _original_attn_impl: str | None
    _run_generation_loop: Callable[..., None]

    def is_running(self) -> bool: ...
    def stop(self, *, hard_stop: bool) -> None: ...


class Request(Protocol):
    """What is used of a request (``RequestState``)."""

    request_id: str
    initial_tokens: Sequence[int]


@dataclass(eq=False)
class Requests:
    """The requests of one steered ``with``, and which row of the mask each of them has.

    The first request that is added has the first row, and so on.

    Attributes:
        lengths: of the rows.
        refused: why this steering cannot be done with continuous batching; empty if it can.
        host: the model that opens managers; None if it has no continuous batching.
        rows: manager -> id of the request -> row.
    """

    lengths: Sequence[int]
    refused: str = ""
    host: nn.Module | None = None
    rows: dict[Manager, dict[str, int]] = field(default_factory=dict)
    _error: SekaError | None = None

    def assign_row(self, manager: Manager, request: Request) -> None:
        """Give the next row of the mask to a request that is being added.

        Raises:
            SteeringError: there is no row left, or it has another length.
        """
        rows, tokens = self.rows[manager], len(request.initial_tokens)
        row = len(rows)
        if row >= len(self.lengths):
            self._error = SteeringError(
                f"request {row + 1} of a batch whose mask has {row} rows: give a row for each request"
            )
        elif tokens != self.lengths[row]:
            self._error = SteeringError(
                f"request {row + 1} has {tokens} tokens and its row of the mask {self.lengths[row]}: continuous batching has "
                "no padding. Give a list of rows, each as long as its request, in the order of the requests"
            )
        elif request.request_id in rows:
            self._error = SteeringError(f"two requests with the id {request.request_id!r}")
        if self._error is not None:
            raise self._error
        rows[request.request_id] = row

    def segments(self, arguments: Arguments) -> list[Segment]:
        """Which tokens of the prompts a pass holds, request by request.

        Args:
            arguments: those of the decoder's forward pass, by name, with ``cache``.

        Raises:
            UnsupportedModelError: no manager that was opened inside the ``with`` runs this pass.
        """
        manager = _serving.get()
        if manager is None or manager not in self.rows:
            raise UnsupportedModelError(
                f"a forward pass with a {type(arguments['cache']).__name__}, which does not say where each request's tokens "
                "are. Continuous batching is steered by generate_batch, or by a manager that is opened inside the `with`"
            )
        rows, io = self.rows[manager], manager.batch_processor.inputs_and_outputs
        io = io.io_pairs[io.current_pair].host_io if hasattr(io, "io_pairs") else io
        segments, offset = [], 0
        for future in io.requests_in_batch:
            name, length = future.state.request_id, future.query_length
            row = rows.get(name, rows.get(name.rpartition("__child#")[0]))  # several sequences of one request
            start = future.state.position_offset - length
            if row is not None and start < self.lengths[row]:
                segments.append(Segment(row, start, length, offset))
            offset += length
        return segments

    def close(self) -> None:
        """Undo everything when the ``with`` ends.

        Raises:
            SekaError: what went wrong in a manager's thread, or while requests were added; transformers only logs it.
            SteeringError: a manager was left running, whose prompts to come would be unsteered; it is stopped.
        """
        managers, running = list(self.rows), [m for m in self.rows if m.is_running()]
        for manager in running:
            manager.stop(hard_stop=True)
        for manager in managers:
            _opened.discard(manager)
            vars(manager).pop("_run_generation_loop", None)
            vars(manager.input_queue).pop("put", None)
        fatal = [m.background_thread_status.fatal_error for m in managers]
        errors = [e for e in (self._error, *fatal) if isinstance(e, SekaError)]
        if errors:
            raise errors[0]
        if running:
            raise SteeringError(
                "a manager of continuous batching was still running when the `with` ended, and was stopped: what it prefills "
                "from then on would be unsteered. Close it inside the `with`"
            )


_following: ContextVar[tuple[Requests, ...]] = ContextVar("seka_following", default=())
_serving: ContextVar[Manager | None] = ContextVar("seka_serving", default=None)  # the manager whose thread this is
_opened: WeakSet[Manager] = WeakSet()  # managers that are followed, in all threads
_lock = threading.Lock()


@contextmanager
def following(model: nn.Module, requests: Requests) -> Iterator[None]:
    """Follow every manager that the model opens inside the ``with``, in this context.

    Raises:
        SekaError: on leaving, as ``Requests.close``.
    """
    requests.host = bound_to(model, "init_continuous_batching")
    with replaced([] if requests.host is None else [requests.host], _at_opening, "init_continuous_batching"):
        _following.set((*_following.get(), requests))
        try:
            yield
            failed = False
        except BaseException:
            failed = True
            raise
        finally:
            _following.set(tuple(r for r in _following.get() if r is not requests))
            try:
                requests.close()
            except SekaError:
                if not failed:
                    raise


def _at_opening(model: nn.Module, *args: object, **kwargs: object) -> Any:
    """In place of ``init_continuous_batching``, through which every manager is opened."""
    manager: Manager = original(model, "init_continuous_batching")(*args, **kwargs)
    followers = [r for r in _following.get() if r.host is model]
    if not followers:
        return manager
    with _lock:
        reasons = [r.refused for r in followers if r.refused] + _reasons_against(manager)
        if not reasons:
            _opened.add(manager)
    if reasons:
        if manager._original_attn_impl is not None:
            transformer(model).set_attn_implementation(manager._original_attn_impl)
            manager._original_attn_impl = None
        raise UnsupportedModelError(f"this continuous batching cannot be steered: {reasons[0]}")
    for requests in followers:
        requests.rows[manager] = {}
    manager._run_generation_loop = partial(copy_context().run, _serve, manager)
    manager.input_queue.put = partial(_add, manager)
    return manager


def _reasons_against(manager: Manager) -> list[str]:
    import transformers

    config, reasons = manager.continuous_batching_config, []
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if not TESTED[0] <= version < TESTED[1]:
        first, end = (".".join(map(str, v)) for v in TESTED)
        return [
            f"it replaces private parts of transformers, and was tested with transformers {first} up to, but not including, "
            f"{end}; this is {transformers.__version__}. Install a tested version, or use generate"
        ]
    if config.allow_block_sharing:
        reasons.append(
            "requests with equal tokens would share cached blocks, and steered keys depend on the highlights too. Pass "
            "continuous_batching_config=ContinuousBatchingConfig(allow_block_sharing=False)"
        )
    if any(config.cuda_graph_booleans) or config.varlen_compile_config or config.decode_compile_config:
        reasons.append(
            "CUDA graphs and compiled steps run again what was recorded once, without the edits. Set use_cuda_graph=False and "
            "no compile configuration"
        )
    if getattr(manager.model, "_device_mesh", None) is not None:
        reasons.append("with tensor parallelism only one process knows the requests. Use generate")
    if any(m is not manager and m.model is manager.model and not _stopped(m) for m in _opened):
        reasons.append(
            "another manager of this model is open, and transformers changes the model's configuration (is_causal) while "
            "one of them runs, so that they disturb each other. Open one after the other"
        )
    return reasons


def _stopped(manager: Manager) -> bool:
    status = manager.background_thread_status
    return bool(status.local_status == status.STOPPED)


def _serve(manager: Manager, *args: object, **kwargs: object) -> None:
    """In place of ``_run_generation_loop``, what the thread of a manager runs."""
    _serving.set(manager)
    type(manager)._run_generation_loop(manager, *args, **kwargs)


def _add(manager: Manager, request: Request, *args: object, **kwargs: object) -> None:
    """In place of ``put`` of the queue that takes the requests of a manager."""
    for requests in _following.get():  # of the thread that adds: requests of others run unsteered beside them
        if manager in requests.rows:
            requests.assign_row(manager, request)
    queue = manager.input_queue
    type(queue).put(queue, request, *args, **kwargs)
