"""Methods of vLLM with something before or after them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any


def around(owner: type, name: str) -> Callable[[Callable[..., Any]], None]:
    """Decorator of ``function(original, self, *args, **kwargs)``, which takes the place of a class's own method."""
    original = vars(owner)[name]

    def replace(function: Callable[..., Any]) -> None:
        @wraps(original)
        def method(self: Any, *args: object, **kwargs: object) -> Any:
            return function(original, self, *args, **kwargs)

        setattr(owner, name, method)

    return replace
