"""Structured answers: JSON of a schema, held to it while it is generated, with highlights as in every other call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, TextBlock
from llama_index.core.bridge.pydantic import BaseModel, ValidationError
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictInProgressEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.program.utils import FlexibleModel, create_flexible_model
from llama_index.core.prompts import BasePromptTemplate
from llama_index.llms.seka.errors import SekaLLMError
from llama_index.llms.seka.marks import mark_message, marks_of
from pydantic_core import from_json

from seka_rag.frameworks import HIGHLIGHT_OPTIONS, KEY

dispatcher = get_dispatcher(__name__)
Model = TypeVar("Model", bound=BaseModel)


class StructuredPrediction(FunctionCallingLLM):
    """The structured methods of an LLM whose ``chat`` takes ``json_schema``."""

    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, object] | None = None,
        **prompt_args: object,
    ) -> Model:
        """Fill a template and answer with an object of ``output_cls``.

        Raises:
            SekaLLMError: the answer was cut off by ``max_tokens``, or breaks a rule that its JSON schema does not hold.
        """
        messages, options = self._start(output_cls, prompt, llm_kwargs, prompt_args)
        return _ended(_read(output_cls, self.chat(messages, **options)))

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, object] | None = None,
        **prompt_args: object,
    ) -> Model:
        """``structured_predict`` without blocking the event loop."""
        await asyncio.to_thread(lambda: self.metadata)  # loads the model: templates ask for it when they are filled
        messages, options = self._start(output_cls, prompt, llm_kwargs, prompt_args)
        return _ended(_read(output_cls, await self.achat(messages, **options)))

    def stream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, object] | None = None,
        **prompt_args: object,
    ) -> Iterator[Model | FlexibleModel]:
        """Objects with the fields that are known so far, and at last one of ``output_cls``."""
        messages, options = self._start(output_cls, prompt, llm_kwargs, prompt_args)
        partial, response = _Partial(output_cls), ChatResponse(message=ChatMessage())
        for response in self.stream_chat(messages, **options):
            if (found := partial.read(response)) is not None:
                yield found
        yield _ended(_read(output_cls, response))

    async def astream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, object] | None = None,
        **prompt_args: object,
    ) -> AsyncIterator[Model | FlexibleModel]:
        """``stream_structured_predict`` for ``async for``."""

        async def pieces() -> AsyncIterator[Model | FlexibleModel]:
            await asyncio.to_thread(lambda: self.metadata)
            messages, options = self._start(output_cls, prompt, llm_kwargs, prompt_args)
            partial, response = _Partial(output_cls), ChatResponse(message=ChatMessage())
            async for response in await self.astream_chat(messages, **options):
                if (found := partial.read(response)) is not None:
                    yield found
            yield _ended(_read(output_cls, response))

        return pieces()

    def as_structured_llm(self, output_cls: type[BaseModel], **kwargs: object) -> StructuredLLM:
        """An LLM that answers with objects of ``output_cls`` only."""
        return SekaStructuredLLM(llm=self, output_cls=output_cls, **kwargs)

    def _start(
        self,
        output_cls: type[BaseModel],
        prompt: BasePromptTemplate,
        options: dict[str, object] | None,
        values: dict[str, object],
    ) -> tuple[list[ChatMessage], dict[str, object]]:
        dispatcher.event(LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=values))
        schema, options = output_cls.model_json_schema(), options or {}
        given = {name: options[name] for name in HIGHLIGHT_OPTIONS if options.get(name) is not None}
        if "steering" in options:
            given["steering"] = options["steering"]
        # options count where a template is filled
        messages = self.model_copy(update=given)._get_messages(prompt, **values)
        return _with_schema(messages, schema), {**options, "json_schema": schema}


class SekaStructuredLLM(StructuredLLM):
    """A structured LLM whose templates are filled by the model inside, which finds the highlights in them."""

    @classmethod
    def class_name(cls) -> str:
        return "seka_structured_llm"

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: object) -> list[ChatMessage]:
        inner = self.llm.model_copy(update={"system_prompt": None})  # it is added when the messages are sent
        return self._extend_messages(inner._get_messages(prompt, **prompt_args))


class _Partial:
    """Reads unfinished JSON; each state once."""

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._cls = create_flexible_model(output_cls)
        self._last: dict[str, object] | None = None

    def read(self, response: ChatResponse) -> FlexibleModel | None:
        try:
            value = from_json(response.message.content or "", allow_partial="trailing-strings")
        except ValueError:
            return None
        if not isinstance(value, dict) or value == self._last:
            return None
        self._last = value
        found = self._cls.model_validate(value)
        dispatcher.event(LLMStructuredPredictInProgressEvent(output=found))
        return found


def _with_schema(messages: list[ChatMessage], schema: dict[str, object]) -> list[ChatMessage]:
    """The messages with the schema behind the last one, whose highlights stay where they are."""
    (*before, last) = messages
    asked = TextBlock(text=f"\nAnswer with JSON of this schema and nothing else:\n{json.dumps(schema)}")
    longer = last.model_copy(update={"blocks": [*last.blocks, asked]})
    if KEY in last.additional_kwargs:
        marks = marks_of(last)
        longer = mark_message(
            longer, marks.spans, warnings=marks.warnings, unmarked=marks.unmarked, citable=marks.citable
        )
    return [*before, longer]


def _read(output_cls: type[Model], response: ChatResponse) -> Model:
    try:
        return output_cls.model_validate_json(response.message.content or "")
    except ValidationError as error:
        raw = response.raw if isinstance(response.raw, dict) else {}
        cut = "; it was cut off by max_tokens" if raw.get("finish_reason") == "length" else ""
        raise SekaLLMError(f"the answer is no {output_cls.__name__}{cut}: {error}") from error


def _ended(output: Model) -> Model:
    dispatcher.event(LLMStructuredPredictEndEvent(output=output))
    return output
