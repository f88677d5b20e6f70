"""The error that leaves this model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from seka_rag import SekaError


class SekaLLMError(SekaError, RuntimeError):
    """A call that cannot be answered. What went wrong below is its ``__cause__``."""


@contextmanager
def raised_as_own() -> Iterator[None]:
    """Raise ValueError and TypeError, and our errors that are such, as SekaLLMError.

    LlamaIndex's refining synthesizers take those two for a badly formed answer: they log them and go on with
    "Empty Response". A prompt that does not fit, or steering that is not possible, must not end like that.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        raise SekaLLMError(f"{type(error).__name__}: {error}") from error
