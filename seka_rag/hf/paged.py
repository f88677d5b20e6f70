"""Continuous batching of transformers: a manager, in a thread of its own, packs the tokens of several requests into one row.

A manager that is opened inside a ``with`` (by ``generate_batch``, for one) runs in the context in which it was opened, so its
thread sees what is tapped there, and no other thread does. Which tokens are whose it knows itself, on the host.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakSet

from torch import nn

from seka_rag.errors import SekaError, SteeringError, UnsupportedModelError
from seka_rag.hf.marks import Segment
from seka_rag.hf.taps import bound_to, fronted, own


@dataclass(eq=False)
class Requests:
    """Which request has which row of the mask: requests take the rows in the order in which they are added.

    Attributes:
        lengths: of the rows.
        refused: why this steering cannot be done with continuous batching; empty if it can.
        host: the model that opens managers; None if it has no continuous batching.
        rows: manager -> id of the request -> row.
    """

    lengths: Sequence[int]
    refused: str = ""
    host: nn.Module | None = None
    rows: dict[Any, dict[str, int]] = field(default_factory=dict)
    _error: SekaError | None = None

    def take(self, manager: Any, request: Any) -> None:
        """Give the next row to a request that is being added.

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

    def segments(self, arguments: dict[str, Any]) -> list[Segment]:
        """What the pass of a manager holds of the prompts.

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

    def leave(self) -> None:
        """End what was opened inside.

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
_serving: ContextVar[Any] = ContextVar("seka_serving", default=None)  # the manager whose thread this is
_opened: WeakSet[Any] = WeakSet()  # managers that are followed, in all threads
_lock = threading.Lock()


@contextmanager
def following(model: nn.Module, requests: Requests) -> Iterator[None]:
    """Follow every manager that the model opens inside the ``with``, in this context.

    Raises:
        SekaError: on leaving, as ``Requests.leave``.
    """
    requests.host = bound_to(model, "init_continuous_batching")
    with fronted([] if requests.host is None else [requests.host], _at_opening, "init_continuous_batching"):
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
                requests.leave()
            except SekaError:
                if not failed:
                    raise


def _at_opening(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """In front of ``init_continuous_batching``, through which every manager is opened."""
    manager = own(model, "init_continuous_batching")(*args, **kwargs)
    followers = [r for r in _following.get() if r.host is model]
    if not followers:
        return manager
    with _lock:
        reasons = [r.refused for r in followers if r.refused] + _why_not(manager)
        if not reasons:
            _opened.add(manager)
    if reasons:
        if manager._original_attn_impl is not None:
            model.set_attn_implementation(manager._original_attn_impl)  # type: ignore[operator]
            manager._original_attn_impl = None
        raise UnsupportedModelError(f"this continuous batching cannot be steered: {reasons[0]}")
    for requests in followers:
        requests.rows[manager] = {}
    manager._run_generation_loop = partial(copy_context().run, _serve, manager)
    manager.input_queue.put = partial(_add, manager)
    return manager


def _why_not(manager: Any) -> list[str]:
    config, reasons = manager.continuous_batching_config, []
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


def _stopped(manager: Any) -> bool:
    status = manager.background_thread_status
    return bool(status.local_status == status.STOPPED)


def _serve(manager: Any) -> None:
    _serving.set(manager)
    type(manager)._run_generation_loop(manager)


def _add(manager: Any, request: Any, *args: Any, **kwargs: Any) -> None:
    for requests in _following.get():  # of the thread that adds: requests of others run unsteered beside them
        if manager in requests.rows:
            requests.take(manager, request)
    queue = manager.input_queue
    type(queue).put(queue, request, *args, **kwargs)
