"""Call: one request to a model with all its options, checked before any work begins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from math import inf
from typing import Any, Literal

from torch import Tensor, nn

from seka_rag.errors import SettingError
from seka_rag.hf.options import generation_options
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.model.prefix import Prefix
from seka_rag.steering.base import SteeringMethod
from seka_rag.steering.registry import as_steering
from seka_rag.text.toolcalls import Tool

Steering = SteeringMethod | Literal["auto"] | None
Truncation = Literal["error", "left"]

#: A temperature below which the likeliest token is taken: scores divided by such numbers may be numbers no more.
_COLD = 1e-4
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
_SPECULATIVE = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")


def _number(fits: Callable[[float], bool]) -> Callable[[object], bool]:
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and fits(v)


def _all(kind: type) -> Callable[[object], bool]:
    return lambda v: isinstance(v, kind) or (isinstance(v, list | tuple) and all(isinstance(one, kind) for one in v))


#: What a value must be if it is given: else it would be taken without a word, or refused in other words when the model runs.
_FORMS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "prefix": (lambda v: isinstance(v, Prefix), "the result of prefill"),
    "max_new_tokens": (lambda v: isinstance(v, int) and v >= 1, "a whole number of tokens, at least 1"),
    "stop": (_all(str), "a string or a list of strings"),
    "seed": (_number(lambda v: -(2**63) <= v < 2**64 and v % 1 == 0), "a whole number of at most 64 bits"),
    "truncate": (lambda v: v in ("error", "left"), "'error', or 'left' to drop the beginning"),
    "timeout": (_number(lambda v: v >= 0), "a number of seconds"),
    "tools": (lambda v: isinstance(v, Sequence), "a list of tools"),
    "temperature": (_number(lambda v: 0 <= v < inf), "a number of at least 0; 0 is greedy"),
    "top_p": (_number(lambda v: 0 < v <= 1), "a share in (0, 1]"),
    "min_p": (_number(lambda v: 0 <= v <= 1), "a share in [0, 1]"),
    "top_k": (_number(lambda v: v >= 0 and v % 1 == 0), "a whole number of at least 0; 0 is all"),
    "repetition_penalty": (_number(lambda v: 0 < v < inf), "a number above 0; 1 is none"),
    "num_return_sequences": (_number(lambda v: v >= 1 and v % 1 == 0), "a whole number of at least 1"),
    "num_beams": (_number(lambda v: v >= 1 and v % 1 == 0), "a whole number of at least 1"),
    "eos_token_id": (lambda v: isinstance(v, Tensor) or _all(int)(v), "the id of a token or a list of them"),
}
#: Options of transformers that a call sets itself, and what to use instead.
_SET_HERE = {
    **dict.fromkeys(["inputs", "input_ids", "inputs_embeds"], "give the prompt as text, a Prompt or tokens"),
    "attention_mask": "padding is masked already",
    "generation_config": "give its settings as options, such as num_beams=2",
    "pad_token_id": "padding is that of the tokenizer",
    "past_key_values": "use prefix, made by prefill",
    "streamer": "use stream or stream_chat",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """Prompts and options of one ``generate``; see ``SteeredModel.generate`` for the options.

    Attributes:
        prompts: the prompts of one batch, as tokens.
        pieces: called with each new piece of the text.
        cancel: ends the generation when it is set.
        generation: the options that are passed on to ``generate`` of transformers.

    Raises:
        SettingError: an option with a value that means nothing.
    """

    prompts: Sequence[TokenizedPrompt] = ()
    prefix: Prefix | None = None
    steering: Steering = "auto"
    max_new_tokens: int = 256
    stop: Sequence[str] | str | None = None
    seed: int | None = None
    truncate: Truncation = "error"
    timeout: float | None = None
    tools: Sequence[Tool] | None = None
    tool_choice: str = "auto"
    strict: bool = False
    json_schema: object = None
    pieces: Callable[[str], None] | None = None
    cancel: threading.Event | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        as_steering(self.steering)
        values = {**self.generation, **vars(self)}
        for name, (fits, form) in _FORMS.items():
            left_out = values.get(name) is None and name not in ("max_new_tokens", "truncate")
            if not left_out and not fits(values[name]):
                raise SettingError(f"{name}={values[name]!r}: give {form}")
        if self.prefix is not None and any(self.generation.get(name) is not None for name in _SPECULATIVE):
            raise SettingError(
                "transformers' assisted decoding and prompt lookup compute the whole prompt again on top of a cache that "
                "holds its beginning; use them without prefix"
            )

    @classmethod
    def of(cls, options: Mapping[str, object], model: nn.Module) -> Call:
        """A call without prompts, from the options that a user gave.

        Raises:
            SettingError: an option that is neither one of this library nor one of transformers, or a bad value.
        """
        known = {f.name for f in fields(cls)} - {"prompts", "pieces", "cancel", "generation"}
        passed_on = {name: value for name, value in options.items() if name not in known}
        if passed_on:
            _check_names(passed_on, known, model)
        given: dict[str, Any] = {name: options[name] for name in options.keys() & known}  # checked when it is made
        return cls(**given, generation=passed_on)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """What ends the answer; an empty string ends nothing."""
        return tuple(s for s in ([self.stop] if isinstance(self.stop, str) else self.stop or ()) if s)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn: where ``do_sample`` does not say, if there is an option of sampling."""
        temperature = self.generation.get("temperature")
        if temperature is not None and temperature < _COLD:
            return False
        given = self.generation.get("do_sample")
        if given is None:
            given = any(self.generation.get(name) is not None for name in _SAMPLING)
        return bool(given)

    @property
    def copies(self) -> int:
        """How many rows each prompt becomes: beams, or several returned sequences."""
        return max(self.generation.get("num_beams") or 1, self.generation.get("num_return_sequences") or 1)

    def for_transformers(self) -> dict[str, Any]:
        """The options of transformers' ``generate``; without sampling, those of sampling are off."""
        off = {} if self.samples else dict.fromkeys(_SAMPLING)
        return {**self.generation, **off, "do_sample": self.samples, "max_new_tokens": self.max_new_tokens}


def _check_names(passed_on: Mapping[str, object], known: set[str], model: nn.Module) -> None:
    all_known = known | generation_options(model)
    custom = passed_on.get("custom_generate") is not None  # a function with options of its own
    for name in passed_on:
        if name in _SET_HERE:
            raise SettingError(f"the option {name!r} is set by the model itself: {_SET_HERE[name]}")
        if name not in all_known and not custom:
            near = get_close_matches(name, sorted(all_known - _SET_HERE.keys()), 1)
            raise SettingError(
                f"unknown option {name!r}"
                + (
                    f": did you mean {near[0]!r}?"
                    if near
                    else ": see SteeredModel.generate, and transformers' generate"
                )
            )


def check_one_answer(options: Mapping[str, Any]) -> None:
    """A conversation is answered once.

    Raises:
        SettingError: several answers are asked for.
    """
    if (several := options.get("num_return_sequences") or 1) > 1:
        raise SettingError(
            f"num_return_sequences={several}: a conversation has one answer; for several, give generate a prompt (the "
            "result of tokenize_chat, where the model runs here)"
        )


def check_streamed(call: Call) -> None:
    """A stream is one answer, each piece of which is certain.

    Raises:
        SettingError: several answers are asked for, or one of beams.
    """
    if call.copies > 1:
        raise SettingError(
            "a stream is of one answer, and that of beams is known at its end only: leave num_beams and "
            "num_return_sequences out, or use generate or chat"
        )
