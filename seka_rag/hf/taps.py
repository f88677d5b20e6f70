"""Taps: functions that see, and may replace, what some modules of a decoder compute, in one context and for one pass.

A tap acts only in the context (thread, task) that opened it: two threads on one model never see each other's. While a
decoder is tapped its ``forward`` is one fixed function that asks what is open here, and a pass that is tapped runs
eagerly. Plain hooks would not do: ``torch.compile`` does not look at hooks that come after it compiled, but it notices
another ``forward``, and being always the same function it is compiled once. A pass that nobody taps, such as every step
of decoding, costs one call.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

#: Takes a module's output; returns another, or None to leave it.
Tap = Callable[[Tensor], Tensor | None]
#: Takes the decoder's arguments by name, before it runs; returns the taps of this pass.
Enter = Callable[[dict[str, Any]], Iterable[tuple[nn.Module, Tap]]]


@dataclass(eq=False)
class _Opening:
    decoder: nn.Module
    enter: Enter
    closed: bool = False


@dataclass
class _Front:
    """A method of one module that is replaced: by how many, and its own one if it was set on the instance."""

    holders: int
    own: Any


_open: ContextVar[tuple[_Opening, ...]] = ContextVar("seka_open", default=())
_pass: ContextVar[dict[nn.Module, list[Tap]]] = ContextVar("seka_pass")
_fronts: dict[tuple[nn.Module, str], _Front] = {}
_lock = threading.Lock()


@contextmanager
def tapped(decoder: nn.Module, enter: Enter) -> Iterator[None]:
    """Call ``enter`` before every forward pass of the decoder inside the ``with``, and its taps during the pass.

    Several on one decoder act in the order in which they were opened.
    """
    opening = _Opening(decoder, enter)
    with fronted([decoder], _functions()[0]):
        _open.set((*_open.get(), opening))
        try:
            yield
        finally:
            opening.closed = True  # also where another context ends the ``with``, as for an abandoned generator
            _open.set(tuple(o for o in _open.get() if o is not opening))


@contextmanager
def fronted(modules: Iterable[nn.Module], front: Callable[..., Any], method: str = "forward") -> Iterator[None]:
    """Put ``front(module, ...)`` in front of a method of each module, in all threads; undone on any way out."""
    with ExitStack() as stack:
        for module in modules:
            key = (module, method)
            with _lock:
                if key not in _fronts:
                    _fronts[key] = _Front(0, vars(module).get(method))
                    setattr(module, method, MethodType(front, module))
                _fronts[key].holders += 1
                stack.callback(_release, key)
        yield


def _release(key: tuple[nn.Module, str]) -> None:
    (module, method), front = key, _fronts[key]
    with _lock:
        front.holders -= 1
        if front.holders:
            return
        if front.own is None:
            delattr(module, method)
        else:
            setattr(module, method, front.own)
        del _fronts[key]


def own(module: nn.Module, method: str = "forward") -> Callable[..., Any]:
    """The module's own method, behind what is in front of it."""
    front = _fronts.get((module, method))
    found = vars(module).get(method) if front is None else front.own  # None: another thread has just released it
    return MethodType(getattr(type(module), method), module) if found is None else found


def bound_to(module: nn.Module, method: str) -> nn.Module | None:
    """The module whose method this is, where another (such as one of PEFT) only passes it on; None if there is none."""
    owner = getattr(getattr(module, method, None), "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


@cache  # when first used, and then always the same: the import is heavy, and compiled code depends on the identity
def _functions() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What stands in front of a decoder and of a tapped module. Neither is ever compiled; what they call may be."""

    @torch.compiler.disable
    def eagerly(forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    @torch.compiler.disable(recursive=False)
    def at_module(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = own(module)(*args, **kwargs)
        for tap in _pass.get({}).get(module, ()):
            changed = tap(output)
            output = output if changed is None else changed
        return output

    @torch.compiler.disable(recursive=False)
    def at_decoder(decoder: nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = own(decoder)
        taps: dict[nn.Module, list[Tap]] = {}
        for opening in _open.get():
            if opening.decoder is decoder and not opening.closed:
                for module, tap in opening.enter(_by_name(decoder, args, kwargs)):
                    taps.setdefault(module, []).append(tap)
        if not taps:
            return forward(*args, **kwargs)
        token = _pass.set(taps)
        try:
            with fronted(taps, at_module):
                return eagerly(getattr(forward, "_torchdynamo_orig_callable", forward), args, kwargs)
        finally:
            _pass.reset(token)

    return at_decoder, at_module


def _by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    kind: Any = type(module)
    return {**dict(zip(_parameters(kind), args, strict=False)), **kwargs} if args else kwargs


@cache
def _parameters(kind: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]
