"""The settings of a SekaLLM: the fields of all models, its own, and what LlamaIndex is told of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.bridge.pydantic import Field
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW, DEFAULT_NUM_OUTPUTS
from llama_index.llms.seka.flow import watch
from llama_index.llms.seka.packing import count_with, room
from llama_index.llms.seka.structured import StructuredPrediction

from seka_rag import RemoteModel
from seka_rag.frameworks import Engine, HighlightSettings, ModelSettings


class SekaSettings(ModelSettings, StructuredPrediction):
    """The fields of a SekaLLM. Copies share the loaded model; it is never stored with them."""

    remote_model: ClassVar[Callable[..., Any]] = RemoteModel

    context_variables: list[str] = Field(
        default=["context_str", "context_msg", "context"], description="Template variables that hold retrieved text."
    )
    context_window: int | None = Field(
        default=None, ge=1, description="By default what the model says, without what its chat template adds."
    )
    is_chat_model: bool | None = Field(default=None, description="By default whether the model has a chat template.")
    is_function_calling_model: bool | None = Field(
        default=None, description="By default whether its chat template writes tool calls in a known form."
    )

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        watch()

    @property
    def metadata(self) -> LLMMetadata:
        known = (self.context_window, self.is_chat_model, self.is_function_calling_model)
        engine = self.engine if None in known else None
        if engine is not None:
            count_with(engine)
        return LLMMetadata(
            context_window=self.context_window or (engine and room(engine)) or DEFAULT_CONTEXT_WINDOW,
            num_output=self.max_tokens or DEFAULT_NUM_OUTPUTS,
            is_chat_model=self._is_chat(engine),
            is_function_calling_model=self._calls_tools(engine),
            model_name=self.model,
        )

    def to_payload(self) -> dict[str, object]:
        """What callbacks see of this model; written without loading it."""
        own = {name: getattr(self, name) for name in ("temperature", "max_tokens", "stop", "seed", "highlight")}
        return {"class_name": self.class_name(), "model_name": self.model, "steering": repr(self.steering), **own}

    def _is_chat(self, engine: Engine | None) -> bool:
        return self.is_chat_model if self.is_chat_model is not None else engine is not None and engine.can_chat

    def _calls_tools(self, engine: Engine | None) -> bool:
        if self.is_function_calling_model is not None:
            return self.is_function_calling_model
        return self._is_chat(engine) and engine is not None and engine.can_call_tools

    def _highlighting(self, call: Mapping[str, object]) -> HighlightSettings:
        """What a call is to highlight, and whether its answer is to cite."""
        return self.highlight_settings(call)
