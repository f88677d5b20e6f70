"""One vocabulary for both frameworks: the fields of their models, the options of a call, and what is to be highlighted."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_serializer,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from seka_rag.errors import SettingError
from seka_rag.frameworks.engines import Engine, EngineSlot
from seka_rag.frameworks.kinds import HIGHLIGHT_OPTIONS, HighlighterField, HighlightMode, HighlightSettings, kinds
from seka_rag.frameworks.tools import schema_of
from seka_rag.frameworks.unmarked import OnUnmarked
from seka_rag.model.shared import bank_name, shared_model
from seka_rag.model.steered import SteeredModel
from seka_rag.steering.registry import as_steering, steering_as_dict


class ModelSettings(BaseModel):
    """Fields of all models. The loaded model is never part of a representation, a trace or what is stored."""

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True, protected_namespaces=())
    #: What runs a model behind ``base_url``: made of the address, a name or None, a key or None, and max_retries.
    remote_model: ClassVar[Callable[..., Any]]

    model: str
    """A name on the Hub, a folder, a GGUF file, "smollm2" or "seka-demo"; with ``base_url`` what the server calls it, or
    nothing."""
    bank: Any = Field(default="auto", repr=False)
    """A ProjectionBank or the folder of one; "auto" takes the one that ships with the model, else one that is learned once
    and cached; None runs the model unsteered."""
    steering: Any = "auto"
    """A method such as ``Seka(gain=0.5)``; "auto" takes the model's own; None runs the plain model."""
    highlight: HighlightMode = "auto"
    """"auto": marks on messages, else what was retrieved. "off": nothing. A list names what is found by itself: "context"
    (what was retrieved), "instructions" (what the application says in system messages and templates), "question"."""
    highlighter: HighlighterField = "sentences"
    """Chooses what to highlight in retrieved passages: a name, or a callable (question, passages) -> spans."""
    highlight_tools: bool | list[str] = False
    """Also highlight what tools return: those with these names, or with True all. Trust them first."""
    on_unmarked: OnUnmarked = "warn"
    """If passages were retrieved and nothing is marked: "warn" (log and warning, once for each cause), "raise", "ignore"."""
    citations: bool | Literal["text"] = False
    """Name the documents that an answer rests on: one more pass of the model, where it runs. "text": the sentences as well."""
    temperature: float | None = Field(default=None, ge=0)
    """Above 0 the model samples; otherwise it is greedy."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of an answer; 256 if nothing is said."""
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    """Strings that end an answer."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds after which an answer that is not ready raises ``TimeoutError``."""
    seed: int | None = None
    """Makes sampling repeatable."""
    generate_kwargs: dict[str, object] = Field(default_factory=dict)
    """Other options of transformers' ``generate`` (``repetition_penalty``, ``top_p``, ...)."""
    chat_template_kwargs: dict[str, object] = Field(default_factory=dict)
    """Options that the model's chat template reads, such as ``{"enable_thinking": False}``."""
    model_kwargs: dict[str, object] = Field(default_factory=dict)
    """Options for loading the model (``dtype``, ``device_map``, ``revision``, ...)."""
    base_url: str | None = None
    """Of a server (``seka-rag serve``) that runs the model, as ``http://host:8000/v1``; nothing is then loaded here."""
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """Of that server; a model in this process has no use for it."""
    max_retries: int = Field(default=2, ge=0)
    """How often a request is repeated if that server was not reached or is busy."""

    loaded: EngineSlot = Field(default_factory=EngineSlot, exclude=True, repr=False)
    """The model, once there is one. Copies share it."""

    def __init__(self, model: str | None = None, *, steered_model: object = None, **settings: Any) -> None:
        """A model by name, by ``base_url``, or ``steered_model``, one that is loaded already; settings are the fields."""
        if steered_model is not None:
            if not isinstance(steered_model, SteeredModel):
                raise ValueError(f"steered_model takes a SteeredModel, not {type(steered_model).__name__}")
            settings["loaded"], model = EngineSlot(steered_model), steered_model.name if model is None else model
        if model is not None or settings.get("base_url"):
            settings["model"] = model or ""
        super().__init__(**settings)

    @classmethod
    def from_steered(cls, steered_model: SteeredModel, **settings: Any) -> Self:
        """Around a model that is loaded already; settings are the fields."""
        return cls(steered_model=steered_model, **settings)

    @property
    def steered_model(self) -> SteeredModel | None:
        """The model that it was made with, if any."""
        return self.loaded.given

    @property
    def engine(self) -> Engine:
        """The loaded model, or the one behind ``base_url``.

        The first use of its name loads it, which takes a while; models are shared by name.
        """
        self._is_the_given()  # a copy may have another name
        bank = self.bank if isinstance(self.bank, str | None) else id(self.bank)
        key = self.api_key.get_secret_value() if self.api_key else None
        here = (self.model, bank, repr(sorted(self.model_kwargs.items())), self.base_url, key, self.max_retries)
        return self.loaded.get(here, self._load)

    def _load(self) -> Engine:
        if self.base_url is None:
            return shared_model(self.model, self.bank, self.model_kwargs)
        key = self.api_key.get_secret_value() if self.api_key else None
        made: Engine = type(self).remote_model(self.base_url, self.model or None, key, max_retries=self.max_retries)
        return made

    # --- fields

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, values: object) -> object:
        known = {*cls.model_fields, *(f.alias for f in cls.model_fields.values() if f.alias)}
        unknown = sorted(set(values) - known) if isinstance(values, Mapping) else []
        if unknown:
            raise ValueError(f"{cls.__name__} has no field {', '.join(_named(name, known) for name in unknown)}")
        if isinstance(values, Mapping) and "model" not in values:
            raise ValueError(f"{cls.__name__} needs a model: give its name, steered_model=... or base_url=...")
        return values

    @model_validator(mode="after")
    def _is_one_model(self) -> Self:
        self._is_the_given()
        given = self.loaded.given
        if given is not None and given.bank is None and self._needs_bank(given):
            raise ValueError(
                f"{given.name} has no bank to steer with: learn one (learn_bank) and give it to the SteeredModel, or give "
                "steering=None to run the plain model"
            )
        if self.base_url is not None:
            own = {"steered_model": given, "bank": self.bank, "model_kwargs": self.model_kwargs}
            for name in (name for name, value in own.items() if value not in (None, "auto", {})):
                raise ValueError(
                    f"{name} is of a model in this process, and base_url is of a server: give one of the two"
                )
            if unknown := sorted(set(self.generate_kwargs) - getattr(self.remote_model, "OPTIONS", set())):
                raise ValueError(f"generate_kwargs: a server takes no {', '.join(unknown)}")
        twice = sorted({"max_tokens", "max_new_tokens"} & set(self.generate_kwargs))
        if twice and self.max_tokens is not None:
            raise ValueError(f"max_tokens and generate_kwargs[{twice[0]!r}]: give one of the two")
        return self

    def _is_the_given(self) -> None:
        """Raise where the fields speak of another model than ``steered_model``."""
        given = self.loaded.given
        if given is None:
            return
        if self.model != given.name:
            raise ValueError(f"model={self.model!r} and a steered_model named {given.name!r}: give one of the two")
        for name, value in {"bank": self.bank, "model_kwargs": self.model_kwargs}.items():
            if value not in (None, "auto", {}):
                raise ValueError(
                    f"{name} is for loading a model, and steered_model is loaded: give it to the SteeredModel"
                )

    def _needs_bank(self, given: SteeredModel) -> bool:
        method = given.usual_steering if self.steering == "auto" else self.steering
        return (
            self.steering is not None and self.highlight != "off" and (method is None or method.bank_type is not None)
        )

    @field_validator("steering")
    @classmethod
    def _read_steering(cls, value: object) -> object:
        return as_steering(value)

    @field_serializer("steering")
    def _write_steering(self, value: Any) -> object:
        return steering_as_dict(value)

    @field_validator("highlight", mode="before")
    @classmethod
    def _read_highlight(cls, value: object) -> object:
        kinds(value)
        return value

    @field_validator("bank")
    @classmethod
    def _read_bank(cls, value: object) -> object:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_serializer("bank")
    def _write_bank(self, value: Any) -> str | None:
        return None if value is None else bank_name(value)

    def __getstate__(self) -> dict[Any, Any]:
        for value in (self.highlighter, self.bank, self.steering):
            pickle.dumps(value)  # a framework may drop what cannot be stored, and with it a trust policy
        return super().__getstate__()

    # --- one call

    def highlight_settings(self, call: Mapping[str, object], *sources: Mapping[str, object]) -> HighlightSettings:
        """What a call is to highlight: what it says, else the sources, the first before the others, else the fields.

        Without steering nothing is. With ``bank=None`` nothing is found by itself, and marks on messages are an error.
        """
        fields = {name: getattr(self, name) for name in HIGHLIGHT_OPTIONS}
        settings = HighlightSettings.of(call, *sources, fields)
        method = call.get("steering", self.steering)
        if method is None:
            return replace(settings, kinds=None)
        if self.bank is None and method == "auto" and settings.kinds is not None:
            return replace(settings, kinds=frozenset(), bank=False)
        return settings

    def call_options(self, call: Mapping[str, object]) -> dict[str, object]:
        """Options of ``SteeredModel.generate``: those of the call before the fields. Others go to transformers.

        Raises:
            SettingError: values that mean nothing, or contradict each other.
        """
        fields = {name: getattr(self, name) for name in ("temperature", "seed", "timeout", "steering", "stop")}
        options = {**fields, "max_new_tokens": self.max_tokens, **_one_limit(self.generate_kwargs)}
        given = {name: value for name, value in call.items() if name not in HIGHLIGHT_OPTIONS}
        options |= {name: v for name, v in _one_limit(given).items() if v is not None or name == "steering"}
        options["steering"] = as_steering(options["steering"])
        if template := {**self.chat_template_kwargs, **(options.pop("chat_template_kwargs", None) or {})}:
            options["template"] = template
        if "response_format" in options:
            options["json_schema"] = schema_of(options.pop("response_format"))
        return {name: value for name, value in options.items() if value is not None or name == "steering"}


def _named(name: str, known: Collection[str]) -> str:
    """A name that is no field, with what to write instead."""
    if name in ("truncate", "json_schema", "tools", "tool_choice", "strict", "prefix"):
        return f"{name!r} (it is an option of a call: give it there, or as generate_kwargs={{{name!r}: ...}})"
    close = get_close_matches(name, sorted(known), 1)
    return f"{name!r} (did you mean {close[0]!r}?)" if close else f"{name!r}"


def _one_limit(options: Mapping[str, Any]) -> dict[str, object]:
    """``max_tokens`` under the name that the model has for it, which users write as well."""
    limits = {options[name] for name in ("max_tokens", "max_new_tokens") if options.get(name) is not None}
    if len(limits) > 1:
        raise SettingError(
            f"max_tokens and max_new_tokens say different numbers: {sorted(limits)}; give one of the two"
        )
    others = {name: v for name, v in options.items() if name not in ("max_tokens", "max_new_tokens")}
    return {**others, **({"max_new_tokens": limits.pop()} if limits else {})}
