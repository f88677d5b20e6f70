"""A chat model for LangChain that follows what its chain retrieved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from functools import partial
from importlib.util import find_spec
from operator import itemgetter
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableMap, RunnablePassthrough, ensure_config

from langchain_seka.citations import in_conversation, with_annotations
from langchain_seka.handler import Origin, explicit, origin_in
from langchain_seka.highlights import for_messages, messages_made
from langchain_seka.messages import thoughts, to_chat
from langchain_seka.settings import SekaSettings
from langchain_seka.structured import Method, options_and_parser
from langchain_seka.tools import Tool, bound, calls, chunks, invalid_calls
from seka_rag import Generation
from seka_rag.frameworks import Cited, Highlights, Request, usage

# `stream` calls `_stream` without a run manager, so the run that it belongs to is left here for it.
_origin_of_stream: ContextVar[Origin] = ContextVar("seka_origin_of_stream", default=(None, None))


def _origin(run_manager: AsyncCallbackManagerForLLMRun | CallbackManagerForLLMRun | None) -> Origin:
    if run_manager is None:
        return _origin_of_stream.get()
    return run_manager.parent_run_id, explicit(run_manager)


class ChatSeka(SekaSettings, BaseChatModel):
    """A local transformers model whose attention is steered to the evidence, for any LangChain chain.

    In a chain with a retriever and a prompt template, nothing else is needed: the passages that reached the prompt
    are found, ``highlighter`` chooses what matters in them, and the answer's ``response_metadata["seka"]`` reports it.

    Example:
        .. code-block:: python

            llm = ChatSeka(model="seka-demo")
            found = {"context": retriever | format_docs, "question": RunnablePassthrough()}
            chain = found | prompt | llm
            chain.invoke("Where does Astrid live?")

    Options of a call, as in ``llm.invoke(messages, max_tokens=20)``: ``stop``, ``max_tokens``, ``temperature``,
    ``seed``, ``steering``, ``highlight``, ``highlighter``, ``highlight_tools``, ``on_unmarked``, and those of transformers'
    ``generate``.
    """

    streaming: bool = False
    """Stream from the model even where ``invoke`` is called, so that callbacks see each piece."""

    @property
    def _llm_type(self) -> str:
        return "chat-seka"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: object) -> LangSmithParams:
        return self._tracing_params(super()._get_ls_params(stop=stop, **kwargs), stop)

    def _resolve_model_profile(self) -> ModelProfile | None:
        """What the model can do; what only the loaded model knows is left out until it is loaded."""
        profile = ModelProfile(
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            pdf_inputs=False,
            video_inputs=False,
            temperature=True,
        )
        if self.base_url is None:
            profile["structured_output"] = profile["tool_choice"] = find_spec("llguidance") is not None
        if (engine := self.loaded.ready) is not None:
            profile["tool_calling"] = engine.can_call_tools
            if engine.context_length is not None:
                profile["max_input_tokens"] = engine.context_length
        return profile

    # --- tools and objects

    def bind_tools(
        self,
        tools: Sequence[Tool],
        *,
        tool_choice: str | bool | dict[str, object] | None = None,
        strict: bool | None = None,
        **kwargs: object,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model, through its own chat template.

        Args:
            tools: functions, tools, pydantic models or schemas.
            tool_choice: "auto" (the model decides), "none", or "any" or a tool's name: exactly one call, held to the schema
                of its arguments.
            strict: hold calls to their schemas also where the model decides.
            kwargs: further options of the call.

        Raises:
            SekaError: a choice that is no tool's name.
        """
        return self.bind(**bound(tools, tool_choice, strict), **kwargs)

    def with_structured_output(
        self,
        schema: object = None,
        *,
        method: Method | None = None,
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Answers as objects of a schema. Decoding is held to it, so an answer that ends by itself always fits.

        Args:
            schema: a pydantic model (answers are its objects), a TypedDict or a JSON schema (answers are dicts).
            method: by default the first of these that the model can do; it is loaded to know that.
                "function_calling" tells the model the schema as a tool, and needs a chat template with tools.
                "json_schema" holds the answer to the schema and tells the model nothing of it. "json_mode" is the same,
                and without a schema takes any JSON object.
            include_raw: answer with a dict of "raw", "parsed" and "parsing_error" instead of raising.

        Raises:
            OutputParserException: when it is called, and the answer was cut off at ``max_tokens``.
        """
        if method is None:
            method = "function_calling" if self.engine.can_call_tools else "json_schema"
        options, parser = options_and_parser(schema, method, strict)
        tools = options.pop("tools", None)
        model = self.bind(**options, **kwargs) if tools is None else self.bind_tools(tools, **options, **kwargs)
        if not include_raw:
            return model | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | parsed.with_fallbacks([failed], exception_key="parsing_error")

    # --- one call

    def _highlights(self, messages: Sequence[BaseMessage], origin: Origin, call: dict[str, Any]) -> Highlights:
        tools = [str(tool.get("function", tool).get("name")) for tool in call.get("tools") or ()]
        find = partial(for_messages, messages, tools=tools)
        return self._found(messages_made(messages), origin, call, find, partial(in_conversation, messages))

    def _request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, origin: Origin, call: dict[str, Any]
    ) -> Request:
        options = self._generate_options(stop, call)
        highlights = call.get("seka_highlights")
        if highlights is None:
            highlights = self._highlights(messages, origin, call)
        return Request(self.engine, to_chat(messages, highlights), options, highlights)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        request = self._request(messages, stop, _origin(run_manager), kwargs)
        generation = request.run()
        return self._result(generation, request, request.cite(generation))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        request = await asyncio.to_thread(self._request, messages, stop, _origin(run_manager), kwargs)
        generation = await request.arun()
        return self._result(generation, request, await request.acite(generation))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> Iterator[ChatGenerationChunk]:
        request = self._request(messages, stop, _origin(run_manager), kwargs)
        with request.stream() as stream:
            for piece in stream:
                yield ChatGenerationChunk(message=AIMessageChunk(content=_piece(piece, request)))
        yield self._last_chunk(stream.result, request, request.cite(stream.result))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> AsyncIterator[ChatGenerationChunk]:
        request = await asyncio.to_thread(self._request, messages, stop, _origin(run_manager), kwargs)
        stream = await asyncio.to_thread(request.stream)
        async with aclosing(aiter(stream)) as pieces:  # type: ignore[type-var]  # it is a generator, and can be closed
            async for piece in pieces:
                yield ChatGenerationChunk(message=AIMessageChunk(content=_piece(piece, request)))
        yield self._last_chunk(stream.result, request, await request.acite(stream.result))

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: object
    ) -> Iterator[AIMessageChunk]:
        """The answer in pieces; leaving the loop ends the generation."""
        _origin_of_stream.set(origin_in(ensure_config(config).get("callbacks")))
        yield from super().stream(input, config, **kwargs)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: object
    ) -> AsyncIterator[AIMessageChunk]:
        """``stream`` for ``async for``."""
        _origin_of_stream.set(origin_in(ensure_config(config).get("callbacks")))
        async with aclosing(super().astream(input, config, **kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _result(self, generation: Generation, request: Request, cited: Sequence[Cited]) -> ChatResult:
        message = AIMessage(
            content=with_annotations(generation.text, cited),
            additional_kwargs=thoughts(generation),
            tool_calls=calls(generation),
            invalid_tool_calls=invalid_calls(generation),
            usage_metadata=_usage(generation),
            response_metadata=self._metadata(generation, request, cited),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _last_chunk(self, generation: Generation, request: Request, cited: Sequence[Cited]) -> ChatGenerationChunk:
        message = AIMessageChunk(
            content=_piece("", request, cited),
            additional_kwargs=thoughts(generation),
            tool_call_chunks=chunks(generation),
            usage_metadata=_usage(generation),
            response_metadata=self._metadata(generation, request, cited),
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)

    # --- LangChain's cache: its key holds the options of a call, so highlights must be among them before it looks

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        highlights = self._highlights(messages, _origin(run_manager), kwargs)
        return super()._generate_with_cache(
            messages, stop=stop, run_manager=run_manager, **{**kwargs, "seka_highlights": highlights}
        )

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        highlights = await asyncio.to_thread(self._highlights, messages, _origin(run_manager), kwargs)
        return await super()._agenerate_with_cache(
            messages, stop=stop, run_manager=run_manager, **{**kwargs, "seka_highlights": highlights}
        )


def _piece(piece: str, request: Request, cited: Sequence[Cited] = ()) -> Any:
    """A piece of an answer: where there may be citations, of the one block that has them at last."""
    if request.highlights.citable is None:
        return piece
    (block,) = with_annotations(piece, cited, always=True)
    return [{**block, "index": 0}]


def _usage(generation: Generation) -> UsageMetadata:
    return UsageMetadata(**usage(generation, "input_tokens", "output_tokens"))
