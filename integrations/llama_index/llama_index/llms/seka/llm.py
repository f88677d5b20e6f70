"""SekaLLM: a local model in LlamaIndex, steered towards the retrieved sentences that fit the question."""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, field_serializer, field_validator
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import BasePromptTemplate, SelectorPromptTemplate
from llama_index.core.tools import BaseTool
from llama_index.llms.seka.engines import EngineSlot
from llama_index.llms.seka.errors import raised_as_own
from llama_index.llms.seka.instructions import Instructions, mark_instructions, whole
from llama_index.llms.seka.marks import announce, take_announced
from llama_index.llms.seka.postprocessor import HighlightPostprocessor
from llama_index.llms.seka.provenance import (
    Filling,
    as_text,
    follow_text,
    highlight_messages,
    highlight_text,
    read_filling,
)
from llama_index.llms.seka.reports import chat_response, completion_response, make_report, response_fields
from llama_index.llms.seka.requests import Request, call_options, chat_request, completion_request
from llama_index.llms.seka.structured import StructuredPrediction
from llama_index.llms.seka.tools import only_first_call, tool_options, tool_selections

from seka_rag import (
    Generation,
    Highlighter,
    Prompt,
    SteeredModel,
    as_highlighter,
    as_steering,
    bank_name,
    steering_as_dict,
)

Response = TypeVar("Response", ChatResponse, CompletionResponse)
#: Text so far or the whole answer, the new piece of it, further fields of the response.
Respond = Callable[["str | Generation", "str | None", Mapping[str, Any]], Response]


class SekaLLM(StructuredPrediction):
    """A local model that follows the evidence, for query engines and chat engines.

    Nothing has to be highlighted by hand: whenever LlamaIndex fills a template with retrieved context, the sentences
    of it that fit the question are. The report is in ``additional_kwargs["seka"]`` of every response; see
    ``collect_reports`` for those of a query engine.

    Calls take ``stop``, ``max_tokens``, ``temperature``, ``top_p``, ``seed``, ``steering`` and ``highlight``, which
    count before the fields of the same name.

    >>> from llama_index.llms.seka import SekaLLM
    >>> SekaLLM(model="seka-demo", max_tokens=8).model
    'seka-demo'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: str = Field(description="A name on the Hub, a folder, or 'seka-demo'.")
    bank: Any = Field(default=None, repr=False, description="A bank or its folder; by default the model's own, if any.")
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
            settings["model"] = steered_model.name if model is None else model
        elif model is not None:
            settings["model"] = model
        super().__init__(**settings)
        self._engine = EngineSlot(steered_model)

    @classmethod
    def class_name(cls) -> str:
        return "SekaLLM"

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
        _highlighter(value)
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

    # --- templates: predict, apredict, stream and astream all pass here

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        values, fill = as_text(self._selected(prompt), prompt_args, self.context_variables), super()._get_messages
        messages = fill(prompt, **values)
        with raised_as_own():
            filling = self._filling(prompt, prompt_args)
            if filling is None:
                return messages
            return highlight_messages(messages, lambda others: fill(prompt, **{**values, **others}), filling)

    def _get_prompt(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        values, fill = as_text(self._selected(prompt), prompt_args, self.context_variables), super()._get_prompt
        text = fill(prompt, **values)
        with raised_as_own():
            filling = self._filling(prompt, prompt_args)
            marked, warnings = Prompt(text), list[str]()
            if filling is not None:
                marked, warnings = highlight_text(text, lambda others: fill(prompt, **{**values, **others}), filling)
            announce(self._engine, self._with_system_prompt(marked), warnings)
        return text

    def _filling(self, prompt: BasePromptTemplate, values: Mapping[str, Any]) -> Filling | None:
        if self.highlight == "off" or self.steering is None:
            return None
        template, variables = self._selected(prompt), self.context_variables
        return read_filling(template, values, variables, _highlighter(self.highlighter), self.highlight_instructions)

    def _with_system_prompt(self, prompt: Prompt) -> Prompt:
        """A completion prompt whose beginning is the system prompt, highlighted if that is asked for."""
        asked = self.highlight_instructions in ("system", "all") and self.highlight != "off"
        if not asked or not self.system_prompt or not prompt.text.startswith(self.system_prompt):
            return prompt
        return Prompt(prompt.text, (*whole(self.system_prompt), *prompt.spans))

    def _selected(self, prompt: BasePromptTemplate) -> BasePromptTemplate:
        return prompt.select(llm=self) if isinstance(prompt, SelectorPromptTemplate) else prompt

    # --- calls

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        request = self._chat_request(messages, kwargs)
        return self._answered(request, self._generate(request), chat_response)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        return self._stream(self._chat_request(messages, kwargs), chat_response)  # type: ignore[return-value]

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        request = await asyncio.to_thread(self._chat_request, messages, kwargs)
        return self._answered(request, await self._agenerate(request), chat_response)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        request = await asyncio.to_thread(self._chat_request, messages, kwargs)
        return self._astream(request, chat_response)  # type: ignore[return-value]

    @llm_completion_callback()
    def complete(self, prompt: str | Prompt, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Continue a prompt, which may be a Prompt with highlights.

        A chat model that is given an unformatted prompt answers it as the user's message, as ``predict`` would have it.
        """
        request = self._completion_request(*self._announced(prompt, formatted), formatted, kwargs)
        return self._answered(request, self._generate(request), completion_response)

    @llm_completion_callback()
    def stream_complete(self, prompt: str | Prompt, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        request = self._completion_request(*self._announced(prompt, formatted), formatted, kwargs)
        return self._stream(request, completion_response)  # type: ignore[return-value]

    @llm_completion_callback()
    async def acomplete(self, prompt: str | Prompt, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        announced = self._announced(prompt, formatted)  # here, because another thread could not use it up
        request = await asyncio.to_thread(self._completion_request, *announced, formatted, kwargs)
        return self._answered(request, await self._agenerate(request), completion_response)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str | Prompt, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        announced = self._announced(prompt, formatted)
        request = await asyncio.to_thread(self._completion_request, *announced, formatted, kwargs)
        return self._astream(request, completion_response)  # type: ignore[return-value]

    # --- tools

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = list(chat_history or ())
        if user_msg is not None:
            messages.append(ChatMessage(content=user_msg) if isinstance(user_msg, str) else user_msg)
        return {"messages": messages, **tool_options(tools, tool_choice, required=tool_required), **kwargs}

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        return response if allow_parallel_tool_calls else only_first_call(response)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tool calls that a response asks for."""
        return tool_selections(response, error_if_none=error_on_no_tool_call)

    # --- requests

    def _chat_request(self, messages: Sequence[ChatMessage], call: Mapping[str, Any]) -> Request:
        with raised_as_own():
            marked = mark_instructions(messages, self.highlight_instructions)
            return chat_request(
                self.engine, marked, self._options(call), self.messages_to_prompt, as_highlighter(self.tool_highlighter)
            )

    def _completion_request(
        self, prompt: Prompt, warnings: list[str], formatted: bool, call: Mapping[str, Any]
    ) -> Request:
        with raised_as_own():
            engine = self.engine
            as_message = self._is_chat(engine) and not formatted
            if not formatted and not as_message:
                prompt = follow_text(prompt, self.completion_to_prompt)
            return completion_request(engine, prompt, warnings, self._options(call), as_message=as_message)

    def _announced(self, prompt: str | Prompt, formatted: bool) -> tuple[Prompt, list[str]]:
        text = prompt.text if isinstance(prompt, Prompt) else prompt
        found, warnings = take_announced(self._engine, text)  # in any case, so that nothing is left for later
        if isinstance(prompt, Prompt):
            return prompt, []
        return (found, warnings) if formatted else (Prompt(text), [])

    def _options(self, call: Mapping[str, Any]) -> dict[str, Any]:
        names = ("stop", "max_tokens", "temperature", "seed", "highlight", "steering")
        return call_options({name: getattr(self, name) for name in names}, call)

    # --- answers

    def _generate(self, request: Request) -> Generation:
        with raised_as_own():
            return request.engine.generate(request.tokens, **request.options)

    async def _agenerate(self, request: Request) -> Generation:
        with raised_as_own():
            generation = await request.engine.agenerate(request.tokens, **request.options)
            assert isinstance(generation, Generation)
            return generation

    def _stream(self, request: Request, respond: Respond[Response]) -> Iterator[Response]:
        text = ""
        with raised_as_own(), request.engine.stream(request.tokens, **request.options) as stream:
            for piece in stream:
                text += piece
                yield respond(text, piece, {})
            yield self._answered(request, stream.result, respond, delta="")

    async def _astream(self, request: Request, respond: Respond[Response]) -> AsyncIterator[Response]:
        text, stream = "", request.engine.stream(request.tokens, **request.options)
        with raised_as_own():
            async with aclosing(stream.__aiter__()) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    text += piece
                    yield respond(text, piece, {})
            yield self._answered(request, stream.result, respond, delta="")

    def _answered(
        self, request: Request, generation: Generation, respond: Respond[Response], delta: str | None = None
    ) -> Response:
        report = make_report(generation, request.prompts, request.warnings)
        return respond(generation, delta, response_fields(self.model, generation, report))


def _highlighter(value: Any) -> Highlighter | HighlightPostprocessor:
    return value if isinstance(value, HighlightPostprocessor) else as_highlighter(value)
