"""The bars that transformers shows while it reads a model: one of ours instead, without its settings being changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

from tqdm.auto import tqdm

_text: ContextVar[str | None] = ContextVar("text of the bar", default=None)  # None: not within a `with` of ours
_lock = Lock()
_inside = 0  # in how many of them all threads are
_undo: Callable[[], None]  # set while there is one inside


@contextmanager
def own_bar(text: str = "") -> Iterator[None]:
    """In this thread, dequantising a file shows one bar of this text, or none without it, and all else that is loaded none.

    Other threads see the bars that they would see without it.
    """
    global _inside, _undo
    with _lock:
        if not _inside:
            _undo = _replace()
        _inside += 1
    token = _text.set(text)
    try:
        yield
    finally:
        _text.reset(token)
        with _lock:
            _inside -= 1
            if not _inside:
                _undo()


def _replace() -> Callable[[], None]:
    """Put ours in the two places where bars are made; gives what undoes it."""
    import transformers.modeling_gguf_pytorch_utils as gguf  # it takes tqdm as it is, and knows no hook
    from transformers.utils.logging import set_tqdm_hook

    def bar(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, object]) -> Any:
        if _text.get() is not None:
            return tqdm(*args, **{**options, "disable": True})
        return previous(factory, args, options) if previous else factory(*args, **options)

    def tensors(found: Iterable[Any], **options: object) -> Any:
        text = _text.get()
        if text is None:
            return original(found, **options)
        return tqdm(found, desc=text, unit="tensor", leave=False) if text else found

    def undo() -> None:
        set_tqdm_hook(previous)
        gguf.tqdm = original

    previous, original = set_tqdm_hook(bar), getattr(gguf, "tqdm", tqdm)
    gguf.tqdm = tensors
    return undo
