"""Templates of LlamaIndex that ask the model to judge or to help, not to answer from evidence: nothing is marked there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache

from llama_index.core.prompts import BasePromptTemplate, PromptTemplate, default_prompts

_ROOMS = ("llama_index.core.evaluation.", "llama_index.core.postprocessor.", "llama_index.core.indices.postprocessor.")


def is_judge(template: BasePromptTemplate) -> bool:
    """Whether it is a template of an evaluator, or of a postprocessor that asks the model which nodes to take.

    A template of one's own is not known to be one: give the evaluator a model with ``highlight="off"``.
    """
    text = _text(template)
    return text is not None and text in _judging(len(sys.modules))


@lru_cache(maxsize=1)
def _judging(modules: int) -> frozenset[str]:
    """The texts of these templates, looked for anew when more modules are loaded."""
    return frozenset(_templates(*_ROOMS)) - frozenset(_templates(default_prompts.__name__))


def _templates(*rooms: str) -> Iterator[str]:
    for name in [name for name in sys.modules if name.startswith(rooms)]:
        for value in list(vars(sys.modules[name]).values()):
            for one in value.values() if isinstance(value, dict) else (value,):
                if isinstance(one, BasePromptTemplate | str) and (text := _text(one)) is not None:
                    yield text


def _text(template: object) -> str | None:
    if isinstance(template, str):
        return template if "{context_str}" in template else None
    return template.template if isinstance(template, PromptTemplate) else None
