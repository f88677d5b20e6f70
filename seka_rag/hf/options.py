"""The options that ``generate`` of transformers takes with a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn

_POPPED = {"tokenizer", "assistant_tokenizer", "cache_implementation"}  # generate takes these without naming them


def generation_options(model: nn.Module) -> frozenset[str]:
    """Names of all options: of ``generate`` itself, of its configuration, and of the model's forward pass."""
    base: Callable[[], nn.Module] | None = getattr(model, "get_base_model", None)  # PEFT hides the signatures
    kind: Any = type(model if base is None else base())
    return _options(kind)


@cache
def _options(kind: Any) -> frozenset[str]:
    from transformers import GenerationConfig
    from transformers.utils.generic import TransformersKwargs

    methods = (kind.generate, kind.prepare_inputs_for_generation, kind.forward)
    named = {
        name
        for method in methods
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    config = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    return frozenset(named | config | set(TransformersKwargs.__annotations__) | _POPPED) - {"self"}
