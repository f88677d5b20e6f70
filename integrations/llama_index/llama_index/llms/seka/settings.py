"""The settings of a SekaLLM: its fields, how they are stored, and what LlamaIndex is told of the model."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from typing import Any, Literal

from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, field_serializer, field_validator
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.llms.seka.engines import EngineSlot
from llama_index.llms.seka.instructions import Instructions
from llama_index.llms.seka.postprocessor import HighlightPostprocessor
from llama_index.llms.seka.requests import call_options
from llama_index.llms.seka.structured import StructuredPrediction

from seka_rag import Highlighter, SteeredModel, as_highlighter, as_steering, bank_name, steering_as_dict


class SekaSettings(StructuredPrediction):
    """What a SekaLLM is told when it is made. Copies share the loaded model; it is never stored with them."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: str = Field(description="A name on the Hub, a folder, a GGUF file, 'smollm2' or 'seka-demo'.")
    bank: Any = Field(
        default="auto",
        repr=False,
        description="A bank or its folder; 'auto' for the model's own, else one that is learned once and cached; None to "
        "run unsteered.",
    )
    steering: Any = Field(
        default="auto",
        description="A method such as Seka(gain=0.5); 'auto' for the model's own; None to run unsteered.",
    )
    highlight: Literal["auto", "off"] = Field(default="auto", description="'off': nothing is highlighted.")
    highlighter: Any = Field(
        default="sentences",
        description="Chooses in retrieved context: a name ('off': only marks on messages count), a callable, or the "
        "HighlightPostprocessor of the query engine.",
    )
    highlight_instructions: Instructions = Field(
        default="off",
        description="Highlight what the system prompt says ('system'), what the user asks ('user'), or both ('all').",
    )
    context_variables: list[str] = Field(
        default=["context_str", "context_msg", "context"], description="Template variables that hold retrieved text."
    )
    tool_highlighter: Any = Field(
        default="off",
        description="Chooses in what tools returned; a passage's source is its tool. Use Trusted(..., TrustPolicy(...)).",
    )
    temperature: float = Field(default=0.0, ge=0, description="Above 0 the model samples; at 0 it is greedy.")
    max_tokens: int = Field(default=256, ge=1, description="Most tokens of an answer.")
    stop: list[str] | None = Field(default=None, description="Strings that end an answer.")
    seed: int | None = Field(default=None, description="Makes sampling repeatable.")
    timeout: float | None = Field(
        default=None, gt=0, description="Seconds after which an unfinished answer is an error."
    )
    context_window: int | None = Field(default=None, ge=1, description="By default what the model says.")
    is_chat_model: bool | None = Field(default=None, description="By default whether the model has a chat template.")
    is_function_calling_model: bool | None = Field(
        default=None, description="By default whether its chat template writes tool calls in a known form."
    )
    model_kwargs: dict[str, Any] = Field(default_factory=dict, description="Options for loading (dtype, device_map).")

    _engine: EngineSlot = PrivateAttr()

    def __init__(self, model: str | None = None, *, steered_model: SteeredModel | None = None, **settings: Any) -> None:
        """A model by name, or ``steered_model``, one that is loaded already; settings are the fields."""
        if steered_model is not None:
            if model not in (None, steered_model.name):
                raise ValueError(
                    f"model={model!r} and a steered_model named {steered_model.name!r}: give one of the two"
                )
            settings["model"] = steered_model.name
        elif model is not None:
            settings["model"] = model
        super().__init__(**settings)
        self._engine = EngineSlot(steered_model)

    # --- fields

    @field_validator("steering")
    @classmethod
    def _read_steering(cls, value: Any) -> Any:
        return as_steering(value)

    @field_serializer("steering")
    def _write_steering(self, value: Any) -> Any:
        return steering_as_dict(value)

    @field_validator("highlighter")
    @classmethod
    def _read_highlighter(cls, value: Any) -> Any:
        named_highlighter(value)
        return value

    @field_validator("tool_highlighter")
    @classmethod
    def _read_tool_highlighter(cls, value: Any) -> Any:
        as_highlighter(value)
        return value

    @field_serializer("highlighter", "tool_highlighter")
    def _write_highlighter(self, value: Any) -> str:
        # the name of a callable is not a known highlighter: reading it back fails, rather than taking another one
        return value if isinstance(value, str) else repr(value)

    @field_validator("bank")
    @classmethod
    def _read_bank(cls, value: Any) -> Any:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_serializer("bank")
    def _write_bank(self, value: Any) -> str | None:
        return None if value is None else bank_name(value)

    def __getstate__(self) -> dict[str, Any]:
        for value in (self.highlighter, self.tool_highlighter, self.bank, self.steering):
            pickle.dumps(value)  # LlamaIndex would drop what cannot be stored, and with it a trust policy
        return super().__getstate__()

    @property
    def engine(self) -> SteeredModel:
        """The loaded model. The first use loads it, which takes a while; models are shared by name."""
        return self._engine.get(self.model, self.bank, self.model_kwargs)

    @property
    def metadata(self) -> LLMMetadata:
        told = (self.context_window, self.is_chat_model, self.is_function_calling_model)
        engine = self.engine if None in told else None
        return LLMMetadata(
            context_window=self.context_window or getattr(engine, "context_length", None) or DEFAULT_CONTEXT_WINDOW,
            num_output=self.max_tokens,
            is_chat_model=self._is_chat(engine),
            is_function_calling_model=self._calls_tools(engine),
            model_name=self.model,
        )

    def to_payload(self) -> dict[str, Any]:
        """What callbacks see of this model; written without loading it."""
        own = {name: getattr(self, name) for name in ("temperature", "max_tokens", "stop", "seed", "highlight")}
        return {"class_name": self.class_name(), "model_name": self.model, "steering": repr(self.steering), **own}

    def _is_chat(self, engine: SteeredModel | None) -> bool:
        if self.is_chat_model is not None:
            return self.is_chat_model
        return bool(getattr(engine.tokenizer if engine else None, "chat_template", None))

    def _calls_tools(self, engine: SteeredModel | None) -> bool:
        if self.is_function_calling_model is not None:
            return self.is_function_calling_model
        return self._is_chat(engine) and engine is not None and engine.can_call_tools

    def _options(self, call: Mapping[str, Any]) -> dict[str, Any]:
        names = ("stop", "max_tokens", "temperature", "seed", "timeout", "highlight", "steering")
        return call_options({name: getattr(self, name) for name in names}, call)


def named_highlighter(value: Any) -> Highlighter | HighlightPostprocessor:
    """The highlighter of a name, or the object itself.

    Raises:
        SpanError: neither a highlighter nor the name of one.
    """
    return value if isinstance(value, HighlightPostprocessor) else as_highlighter(value)
