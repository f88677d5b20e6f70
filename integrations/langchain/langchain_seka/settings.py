"""What the chat model and the completion model share: their fields, their engine, and what one call is given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from langchain_core.load.serializable import Serializable
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, field_validator, model_validator
from typing_extensions import Self

from langchain_seka.capture import install
from langchain_seka.handler import SekaCallbackHandler
from langchain_seka.highlights import Highlights
from langchain_seka.tools import schema_of, warnings
from langchain_seka.wanted import HighlightMode, Wanted, kinds
from seka_rag import (
    Generation,
    Prompt,
    RemoteModel,
    SteeredModel,
    as_highlighter,
    as_steering,
    bank_name,
    highlighting,
    shared_model,
)

#: Call options that say nothing to the engine.
_IGNORED = ("stream", "seka_highlights", "highlight", "highlighter", "highlight_tools")


@dataclass(frozen=True)
class Request:
    """One call, ready to run: what is asked, options of ``SteeredModel.generate``, and where the highlights came from."""

    engine: SteeredModel | RemoteModel
    asked: Any  # a Prompt, or messages
    options: dict[str, Any]
    highlights: Highlights

    def run(self) -> Generation:
        ask = self.engine.generate if isinstance(self.asked, Prompt) else self.engine.chat
        with highlighting(()):  # what an open block marks is among the highlights already
            return ask(self.asked, **self.options)  # type: ignore[arg-type]

    async def arun(self) -> Generation:
        ask = self.engine.agenerate if isinstance(self.asked, Prompt) else self.engine.achat
        with highlighting(()):
            return await ask(self.asked, **self.options)  # type: ignore[arg-type,return-value]

    def stream(self) -> Any:
        ask = self.engine.stream if isinstance(self.asked, Prompt) else self.engine.stream_chat
        with highlighting(()):
            return ask(self.asked, **self.options)  # type: ignore[arg-type]


class SekaSettings(Serializable):
    """Fields of both models. The loaded model is never part of a representation, a trace or a serialisation."""

    model: str
    """A name on the Hub, a folder, a GGUF file, "smollm2" or "seka-demo"; with ``base_url`` what the server calls it, or
    nothing."""
    bank: Any = Field(default="auto", repr=False)
    """A ProjectionBank or the folder of one; "auto" takes the one that ships with the model, else one that is learned once
    and cached; None runs the model unsteered."""
    steering: Any = "auto"
    """A method such as ``Seka(gain=0.5)``; "auto" takes the model's own; None runs the plain model."""
    highlight: HighlightMode = "auto"
    """"auto": spans on the messages, else what the chain's retriever returned. "off": nothing. A list may name "context",
    which is the same as "auto", and "instructions": what the system and the user say."""
    highlighter: Any = "sentences"
    """Chooses what to highlight in retrieved passages: a name, or a callable (question, passages) -> spans."""
    highlight_tools: bool | list[str] = False
    """Also highlight tool output, documents in a tool message's artifact and spans on it: that of the tools with these
    names, or with True of all. Which documents of theirs is up to the highlighter's trust policy."""
    temperature: float | None = Field(default=None, ge=0)
    """Above 0 the model samples; otherwise it is greedy."""
    max_tokens: int | None = Field(default=None, ge=1)
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    timeout: float | None = Field(default=None, gt=0)
    """Seconds after which an answer that is not ready raises ``TimeoutError``."""
    seed: int | None = None
    """Makes sampling repeatable."""
    generate_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Other options of transformers' ``generate`` (``repetition_penalty``, ``top_p``, ...)."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Options for loading the model (``dtype``, ``device_map``, ``revision``, ...)."""
    steered_model: Any = Field(default=None, exclude=True, repr=False)
    """A ``SteeredModel`` that is loaded already; used instead of loading ``model``."""

    base_url: str | None = None
    """Of a server (``seka-rag serve``) that runs the model, as ``http://host:8000/v1``; nothing is then loaded here."""
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """Of that server; a model in this process has no use for it."""
    max_retries: int = Field(default=2, ge=0)
    """How often a request is repeated if that server was not reached or is busy."""

    _loaded: SteeredModel | RemoteModel | None = PrivateAttr(default=None)

    model_config = ConfigDict(populate_by_name=True, arbitrary_types_allowed=True, protected_namespaces=())

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        install()

    @classmethod
    def from_steered(cls, steered_model: SteeredModel, **settings: Any) -> Self:
        """Around a model that is loaded already; settings are the fields."""
        return cls(steered_model=steered_model, **settings)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """A model in memory cannot be rebuilt from JSON."""
        return False

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, values: Any) -> Any:
        known = {*cls.model_fields, *(f.alias for f in cls.model_fields.values() if f.alias)}
        unknown = sorted(set(values) - known) if isinstance(values, Mapping) else []
        if unknown:
            near = [(name, get_close_matches(name, sorted(known), 1)) for name in unknown]
            said = [f"{name!r}" + (f" (did you mean {close[0]!r}?)" if close else "") for name, close in near]
            raise ValueError(f"{cls.__name__} has no field {', '.join(said)}")
        return values

    @model_validator(mode="before")
    @classmethod
    def _named_by_engine(cls, values: Any) -> Any:
        engine = values.get("steered_model") if isinstance(values, Mapping) else None
        if engine is not None and "model" not in values:
            return {**values, "model": getattr(engine, "name", "")}
        if isinstance(values, Mapping) and values.get("base_url") and not values.get("model"):
            return {**values, "model": ""}
        return values

    @field_validator("steered_model")
    @classmethod
    def _is_steered_model(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, SteeredModel):
            raise ValueError(f"steered_model takes a SteeredModel, not {type(value).__name__}")
        return value

    @model_validator(mode="after")
    def _is_one_model(self) -> Self:
        if self.base_url is not None:
            for name in ("steered_model", "bank", "model_kwargs"):
                if getattr(self, name) not in (None, "auto", {}):
                    raise ValueError(
                        f"{name} is of a model in this process, and base_url is of a server: give one of the two"
                    )
            if unknown := sorted(set(self.generate_kwargs) - RemoteModel.OPTIONS):
                raise ValueError(f"generate_kwargs: a server takes no {', '.join(unknown)}")
        if self.steered_model is not None and self.model != self.steered_model.name:
            raise ValueError(
                f"model={self.model!r} and a steered_model named {self.steered_model.name!r}: give one of the two"
            )
        return self

    @field_validator("steering")
    @classmethod
    def _is_steering(cls, value: Any) -> Any:
        return as_steering(value)

    @field_validator("highlight")
    @classmethod
    def _is_mode(cls, value: Any) -> Any:
        kinds(value)
        return value

    @field_validator("highlighter")
    @classmethod
    def _is_highlighter(cls, value: Any) -> Any:
        as_highlighter(value)
        return value

    @property
    def engine(self) -> SteeredModel | RemoteModel:
        """The loaded model, or the one behind ``base_url``.

        The first use of its name loads it, which takes a while; models are shared by name.
        """
        if self.steered_model is not None:
            return self.steered_model
        if self._loaded is None and self.base_url is not None:
            key = self.api_key.get_secret_value() if self.api_key else None
            self._loaded = RemoteModel(self.base_url, self.model or None, key, max_retries=self.max_retries)
        if self._loaded is None:
            bank = os.fspath(self.bank) if isinstance(self.bank, os.PathLike) else self.bank
            self._loaded = shared_model(self.model, bank, self.model_kwargs)
        return self._loaded

    def get_token_ids(self, text: str) -> list[int]:
        """The text in the model's own tokens; ``get_num_tokens`` counts these."""
        return self.engine.tokenize(text).ids

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that can change an answer; also the key of LangChain's cache."""
        engine = self.steered_model
        return {
            "model": self.model,
            "base_url": self.base_url,
            "bank": bank_name(self.bank if engine is None else engine.bank),
            "steering": repr(engine.steering if engine is not None and self.steering == "auto" else self.steering),
            "highlight": self.highlight,
            "highlighter": self.highlighter if isinstance(self.highlighter, str) else repr(self.highlighter),
            "highlight_tools": self.highlight_tools,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "stop_sequences": self.stop,
            "seed": self.seed,
            "generate_kwargs": {key: repr(value) for key, value in self.generate_kwargs.items()},
            "model_kwargs": {key: repr(value) for key, value in self.model_kwargs.items()},
        }

    def _tracing_params(self, params: Any, stop: list[str] | None) -> Any:
        params["ls_provider"] = "seka"
        if stop or self.stop:
            params["ls_stop"] = stop or self.stop
        return params

    def _wanted(self, call: Mapping[str, Any], handler: SekaCallbackHandler | None) -> Wanted | None:
        """What to highlight; None for nothing."""
        own = {name: getattr(self, name) for name in ("highlight", "highlighter", "highlight_tools")}
        wanted = Wanted.of(call, handler.settings if handler else {}, own)
        return wanted if wanted.kinds and call.get("steering", self.steering) is not None else None

    def _generate_options(self, stop: list[str] | None, call: Mapping[str, Any]) -> dict[str, Any]:
        """Options of ``SteeredModel.generate``: the call's own before the fields; others go to transformers."""
        own = {name: getattr(self, name) for name in ("temperature", "max_tokens", "seed", "timeout", "steering")}
        options = {**self.generate_kwargs, **own, **{key: value for key, value in call.items() if key not in _IGNORED}}
        options["max_new_tokens"] = options.pop("max_tokens")
        options["steering"] = as_steering(options["steering"])
        options["stop"] = self.stop if stop is None else stop
        if "response_format" in options:
            options["json_schema"] = schema_of(options.pop("response_format"))
        return {key: value for key, value in options.items() if value is not None or key == "steering"}

    def _metadata(self, generation: Generation, request: Request) -> dict[str, Any]:
        report = generation.report.as_dict()
        report["warnings"] = [*report["warnings"], *request.highlights.warnings, *warnings(generation)]
        return {
            "model_name": request.engine.name,
            "model_provider": "seka",
            "finish_reason": generation.finish_reason,
            "seka": {**report, "highlights": request.highlights.report()},
        }
