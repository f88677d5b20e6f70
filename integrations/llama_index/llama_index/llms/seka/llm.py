"""SekaLLM: a local model in LlamaIndex, steered towards the retrieved sentences that fit the question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
)
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import BasePromptTemplate, SelectorPromptTemplate
from llama_index.core.tools import BaseTool
from llama_index.core.types import TokenAsyncGen
from llama_index.llms.seka.errors import raised_as_own
from llama_index.llms.seka.events import HighlightEvent
from llama_index.llms.seka.flow import remember
from llama_index.llms.seka.judges import is_judge
from llama_index.llms.seka.marks import Announced, announce, take_announced
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
from llama_index.llms.seka.requests import SekaRequest, chat_request, completion_request
from llama_index.llms.seka.settings import SekaSettings
from llama_index.llms.seka.tools import only_first_call, tool_options, tool_selections
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR

from seka_rag import Generation, Prompt
from seka_rag.frameworks import Cited

dispatcher = get_dispatcher(__name__)
Response = TypeVar("Response", ChatResponse, CompletionResponse)
#: Takes the text so far or the whole answer, the new piece of it, further fields of the response, and citations.
Respond = Callable[..., Response]


def _without_span(method: Any) -> Any:
    setattr(method, DISPATCHER_SPAN_DECORATED_ATTR, True)
    return method


class SekaLLM(SekaSettings):
    """A local model that follows the evidence, for query engines and chat engines.

    Nothing has to be highlighted by hand: whenever LlamaIndex fills a template with retrieved context, the sentences
    of it that fit the question are. The report is in ``additional_kwargs["seka"]`` of every response; see
    ``collect_reports`` for those of a query engine.

    Calls take ``stop``, ``max_tokens``, ``temperature``, ``seed``, ``timeout``, ``steering``, ``highlight``, ``highlighter``,
    ``highlight_tools`` and ``on_unmarked``, which count before the fields of the same name, ``json_schema``, which holds the
    answer to a JSON schema, for chats ``tools``, ``tool_choice`` ("auto", "any", "none" or a name) and ``strict``, and the
    options of transformers' ``generate``.

    >>> from llama_index.llms.seka import SekaLLM
    >>> SekaLLM(model="seka-demo", max_tokens=8).model
    'seka-demo'
    """

    @classmethod
    def class_name(cls) -> str:
        return "SekaLLM"

    # --- templates: predict, apredict, stream and astream all pass here

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: object) -> list[ChatMessage]:
        values, fill = as_text(self._selected(prompt), prompt_args, self.context_variables), super()._get_messages
        messages = fill(prompt, **values)
        with raised_as_own():
            filling = self._filling(prompt, prompt_args)
            if filling is None:
                return messages
            return highlight_messages(messages, lambda others: fill(prompt, **{**values, **others}), filling)

    def _get_prompt(self, prompt: BasePromptTemplate, **prompt_args: object) -> str:
        values, fill = as_text(self._selected(prompt), prompt_args, self.context_variables), super()._get_prompt
        text = fill(prompt, **values)
        with raised_as_own():
            filling = self._filling(prompt, prompt_args)
            announced = Announced(Prompt(text))
            if filling is not None:
                announced = highlight_text(text, lambda others: fill(prompt, **{**values, **others}), filling)
            announce(self.loaded, announced)
        return text

    def _filling(self, prompt: BasePromptTemplate, values: Mapping[str, object]) -> Filling | None:
        settings = self._highlighting({})
        if (settings.kinds is None and not settings.citations) or is_judge(self._selected(prompt)):
            return None
        chosen = self.highlighter if isinstance(self.highlighter, HighlightPostprocessor) else None
        return read_filling(self._selected(prompt), values, self.context_variables, settings, chosen)

    def _selected(self, prompt: BasePromptTemplate) -> BasePromptTemplate:
        return prompt.select(llm=self) if isinstance(prompt, SelectorPromptTemplate) else prompt

    # LlamaIndex asks for `metadata` before it awaits anything, so the model is loaded before, in a thread. These add no
    # span of their own to the one of the method that they go on to.

    @_without_span
    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: object) -> str:
        await asyncio.to_thread(lambda: self.metadata)
        return await super().apredict(prompt, **prompt_args)

    @_without_span
    async def astream(self, prompt: BasePromptTemplate, **prompt_args: object) -> TokenAsyncGen:
        await asyncio.to_thread(lambda: self.metadata)
        return await super().astream(prompt, **prompt_args)

    # --- calls

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: object) -> ChatResponse:
        request = self._chat_request(messages, kwargs)
        return self._respond(request, self._generate(request), chat_response)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: object) -> ChatResponseGen:
        return self._stream(self._chat_request(messages, kwargs), chat_response)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: object) -> ChatResponse:
        request = await asyncio.to_thread(self._chat_request, messages, kwargs)
        return await self._arespond(request, await self._agenerate(request), chat_response)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: object) -> ChatResponseAsyncGen:
        request = await asyncio.to_thread(self._chat_request, messages, kwargs)
        return self._astream(request, chat_response)

    @llm_completion_callback()
    def complete(self, prompt: str | Prompt, formatted: bool = False, **kwargs: object) -> CompletionResponse:
        """Continue a prompt, which may be a Prompt with highlights.

        A chat model that is given an unformatted prompt answers it as the user's message, as ``predict`` would have it.
        """
        request = self._completion_request(self._announced(prompt, formatted), formatted, kwargs)
        return self._respond(request, self._generate(request), completion_response)

    @llm_completion_callback()
    def stream_complete(self, prompt: str | Prompt, formatted: bool = False, **kwargs: object) -> CompletionResponseGen:
        request = self._completion_request(self._announced(prompt, formatted), formatted, kwargs)
        return self._stream(request, completion_response)

    @llm_completion_callback()
    async def acomplete(self, prompt: str | Prompt, formatted: bool = False, **kwargs: object) -> CompletionResponse:
        announced = self._announced(prompt, formatted)  # here, because another thread could not use it up
        request = await asyncio.to_thread(self._completion_request, announced, formatted, kwargs)
        return await self._arespond(request, await self._agenerate(request), completion_response)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str | Prompt, formatted: bool = False, **kwargs: object
    ) -> CompletionResponseAsyncGen:
        announced = self._announced(prompt, formatted)
        request = await asyncio.to_thread(self._completion_request, announced, formatted, kwargs)
        return self._astream(request, completion_response)

    # --- tools

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> dict[str, object]:
        messages = list(chat_history or ())
        if user_msg is not None:
            messages.append(ChatMessage(content=user_msg) if isinstance(user_msg, str) else user_msg)
        with raised_as_own():
            options = tool_options(tools, tool_choice, required=tool_required)
        return {"messages": messages, **options, **kwargs}

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: object,
    ) -> ChatResponse:
        return response if allow_parallel_tool_calls else only_first_call(response)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: object
    ) -> list[ToolSelection]:
        """The tool calls that a response asks for."""
        return tool_selections(response, error_if_none=error_on_no_tool_call)

    # --- requests

    def _chat_request(self, messages: Sequence[ChatMessage], call: Mapping[str, object]) -> SekaRequest:
        with raised_as_own():
            return chat_request(
                self.engine, messages, self._highlighting(call), self.call_options(call), self.messages_to_prompt
            )

    def _completion_request(self, announced: Announced, formatted: bool, call: Mapping[str, object]) -> SekaRequest:
        with raised_as_own():
            engine = self.engine
            as_message = self._is_chat(engine) and not formatted
            if not formatted and not as_message:
                announced = replace(announced, prompt=follow_text(announced.prompt, self.completion_to_prompt))
            return completion_request(
                engine, announced, self._highlighting(call), self.call_options(call), as_message=as_message
            )

    def _announced(self, prompt: str | Prompt, formatted: bool) -> Announced:
        text = prompt.text if isinstance(prompt, Prompt) else prompt
        found = take_announced(self.loaded, text)  # in any case, so that nothing is left for later
        if isinstance(prompt, Prompt):
            return Announced(prompt)
        return found if formatted else Announced(Prompt(text))

    # --- answers

    def _generate(self, request: SekaRequest) -> Generation:
        with raised_as_own():
            return request.run()

    async def _agenerate(self, request: SekaRequest) -> Generation:
        with raised_as_own():
            return await request.arun()

    def _stream(self, request: SekaRequest, respond: Respond[Response]) -> Iterator[Response]:
        text = ""
        with raised_as_own(), request.stream() as stream:
            for piece in stream:
                text += piece
                yield respond(text, piece, {})
            yield self._respond(request, stream.result, respond, delta="")

    async def _astream(self, request: SekaRequest, respond: Respond[Response]) -> AsyncIterator[Response]:
        text = ""
        with raised_as_own():
            stream = await asyncio.to_thread(request.stream)
            async with aclosing(stream.__aiter__()) as pieces:  # type: ignore[type-var]  # it is a generator, and can be closed
                async for piece in pieces:
                    text += piece
                    yield respond(text, piece, {})
            yield await self._arespond(request, stream.result, respond, delta="")

    def _respond(
        self, request: SekaRequest, generation: Generation, respond: Respond[Response], delta: str | None = None
    ) -> Response:
        with raised_as_own():
            return self._answered(request, generation, request.cite(generation), respond, delta)

    async def _arespond(
        self, request: SekaRequest, generation: Generation, respond: Respond[Response], delta: str | None = None
    ) -> Response:
        with raised_as_own():
            return self._answered(request, generation, await request.acite(generation), respond, delta)

    def _answered(
        self,
        request: SekaRequest,
        generation: Generation,
        cited: Sequence[Cited],
        respond: Respond[Response],
        delta: str | None,
    ) -> Response:
        report = make_report(generation, request.highlights, request.listeners, cited)
        remember(generation.text, request.answers)
        dispatcher.event(HighlightEvent(model_name=self.model, prompts=request.prompts, report=report))
        return respond(generation, delta, response_fields(self.model, generation, report), cited)
