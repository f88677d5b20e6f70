"""Reading and changing what modules of a decoder compute, in the thread or task that asked for it and nowhere else.

A *tap* is a function that gets the output of one module and may return another output in its place. ``tapped`` opens taps
for the passes of a decoder inside a ``with``. Another thread that runs the same model at the same time does not see them.

This is done by replacing methods, not by the hooks of PyTorch: ``torch.compile`` does not notice hooks that are added after it
compiled a model, but it notices another ``forward``. The replacement is one fixed function that looks up what is open in
the present context, so a model is compiled only once more, however often it is steered. A pass with taps runs eagerly. A
pass without any, such as each step of decoding, costs one function call more than before.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from seka_rag.hf.types import Arguments

#: Takes a module's output; returns another, or None to leave it.
Tap = Callable[[Tensor], Tensor | None]
Method = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Around:
    """A tap on what happens inside a module: ``context`` makes what is entered before it runs and left after it."""

    context: Callable[[], AbstractContextManager[object]]


#: Takes the decoder's arguments by name, before it runs; returns the taps of this pass.
Enter = Callable[[Arguments], Iterable[tuple[nn.Module, Tap | Around]]]


@dataclass(eq=False)
class _Opening:
    """One open ``with tapped(...)``."""

    decoder: nn.Module
    enter: Enter
    closed: bool = False


@dataclass
class _Replaced:
    """A method that is replaced on one module.

    Attributes:
        users: how many ``with`` blocks need the replacement.
        original: the method if it was an attribute of the module itself; None if it is that of its class.
    """

    users: int
    original: Method | None


_open: ContextVar[tuple[_Opening, ...]] = ContextVar("seka_open", default=())
_pass: ContextVar[Mapping[nn.Module, list[Tap | Around]]] = ContextVar("seka_pass")
_replaced: dict[tuple[nn.Module, str], _Replaced] = {}
_lock = threading.Lock()


@contextmanager
def tapped(decoder: nn.Module, enter: Enter) -> Iterator[None]:
    """Open taps for every forward pass of the decoder inside the ``with``.

    Where several are open for one decoder, they act in the order in which they were opened.

    Args:
        enter: called before each pass with its arguments; says which taps the pass has.
    """
    opening = _Opening(decoder, enter)
    with replaced([decoder], _functions()[0]):
        _open.set((*_open.get(), opening))
        try:
            yield
        finally:
            opening.closed = True  # also where another context ends the ``with``, as for an abandoned generator
            _open.set(tuple(o for o in _open.get() if o is not opening))


@contextmanager
def replaced(modules: Iterable[nn.Module], function: Method, method: str = "forward") -> Iterator[None]:
    """Call ``function(module, ...)`` in place of a method of each module, in all threads, until the ``with`` ends.

    The function reaches the method that it replaces by ``original``. Blocks may overlap if they give the same function.
    """
    with ExitStack() as stack:
        for module in modules:
            key = (module, method)
            with _lock:
                if key not in _replaced:
                    _replaced[key] = _Replaced(0, vars(module).get(method))
                    setattr(module, method, MethodType(function, module))
                _replaced[key].users += 1
                stack.callback(_restore, key)
        yield


def _restore(key: tuple[nn.Module, str]) -> None:
    (module, method), entry = key, _replaced[key]
    with _lock:
        entry.users -= 1
        if entry.users:
            return
        if entry.original is None:
            delattr(module, method)
        else:
            setattr(module, method, entry.original)
        del _replaced[key]


def original(module: nn.Module, method: str = "forward") -> Method:
    """The method of a module that is called when nothing replaces it."""
    entry = _replaced.get((module, method))
    found = vars(module).get(method) if entry is None else entry.original  # None: another thread has just restored it
    return MethodType(getattr(type(module), method), module) if found is None else found


def bound_to(module: nn.Module, method: str) -> nn.Module | None:
    """The module whose method this is, where another (such as one of PEFT) only passes it on; None if there is none."""
    owner = getattr(getattr(module, method, None), "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _not_compiled(function: Method) -> Method:
    disabled: Method = torch.compiler.disable(function, recursive=False)  # type: ignore[no-untyped-call]  # torch leaves it so
    return disabled


@cache  # made when first used, since the import of the compiler is heavy, and then always the same two functions
def _functions() -> tuple[Method, Method]:
    """What is called in place of the ``forward`` of a decoder and of a tapped module.

    Neither is ever compiled; what they call may be.
    """

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch leaves it untyped
    def eagerly(forward: Method, args: tuple[Any, ...], kwargs: Arguments) -> Any:
        return forward(*args, **kwargs)

    @_not_compiled
    def at_module(module: nn.Module, *args: object, **kwargs: object) -> Any:
        taps = _pass.get({}).get(module, ())
        with ExitStack() as stack:
            for tap in taps:
                if isinstance(tap, Around):
                    stack.enter_context(tap.context())
            output = original(module)(*args, **kwargs)
        for tap in taps:
            if not isinstance(tap, Around):
                changed = tap(output)
                output = output if changed is None else changed
        return output

    @_not_compiled
    def at_decoder(decoder: nn.Module, *args: object, **kwargs: object) -> Any:
        forward = original(decoder)
        taps: dict[nn.Module, list[Tap | Around]] = {}
        for opening in _open.get():
            if opening.decoder is decoder and not opening.closed:
                for module, tap in opening.enter(by_name(decoder, args, kwargs)):
                    taps.setdefault(module, []).append(tap)
        if not taps:
            return forward(*args, **kwargs)
        token = _pass.set(taps)
        try:
            with replaced(taps, at_module):
                return eagerly(getattr(forward, "_torchdynamo_orig_callable", forward), args, kwargs)
        finally:
            _pass.reset(token)

    return at_decoder, at_module


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> Arguments:
    """The arguments of a module's forward pass, by name."""
    return {**dict(zip(parameters_of(module), args, strict=False)), **kwargs} if args else kwargs


def parameters_of(module: nn.Module) -> tuple[str, ...]:
    """The names of the arguments of a module's forward pass."""
    kind: Any = type(module)
    return _parameters(kind)


@cache
def _parameters(kind: type[nn.Module]) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]
