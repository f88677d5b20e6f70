"""Bodies of requests in the form of OpenAI: their shapes only. ``reading`` turns them into calls of the model."""

from __future__ import annotations

import json
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, field_validator, model_validator

from seka_rag.text.toolcalls import TOOL_NAME

#: Whole numbers are taken where a number may have a fraction, as JSON has one kind of number.
Number = Annotated[float, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]


class Shape(BaseModel):
    """A JSON object. A field that is null is as if it were absent, whatever its name."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())
    null_means_something: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if v is not None or k in cls.null_means_something}


class SpanBody(Shape):
    """A highlight: characters of a message's text, or of the prompt."""

    message: Whole | None = None
    start: Whole
    end: Whole
    weight: Number = 1.0
    source: Annotated[StrictStr, Field(max_length=512)] | None = None


class SekaBody(Shape):
    null_means_something = ("steering",)

    spans: list[SpanBody] = []
    steering: Literal["auto"] | dict[str, object] | None = "auto"
    strict: StrictBool = False


class Part(Shape):
    """A content part. ``highlight`` marks the whole of it, with a weight."""

    type: Literal["text", "input_text", "output_text"]
    text: StrictStr
    highlight: StrictBool | Number = False
    source: Annotated[StrictStr, Field(max_length=512)] | None = None
    annotations: list[object] = []  # of an answer that comes back; they say nothing to the model
    logprobs: list[object] = []


class CalledFunction(Shape):
    name: Annotated[StrictStr, Field(min_length=1)]
    arguments: dict[str, object]

    @field_validator("arguments", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("this is not the text of a JSON object") from None


class CallBody(Shape):
    """A tool call of an earlier answer."""

    id: StrictStr | None = None
    index: Whole | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class MessageBody(Shape):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: StrictStr | list[Part] | None = None
    name: StrictStr | None = None
    tool_calls: list[CallBody] = []
    tool_call_id: StrictStr | None = None
    annotations: list[object] = []  # of an answer that comes back; they say nothing to the model
    reasoning_content: StrictStr | None = None


class ToolFunction(Shape):
    model_config = ConfigDict(extra="allow")

    name: Annotated[StrictStr, Field(pattern=f"^{TOOL_NAME}$")]
    description: StrictStr | None = None
    parameters: dict[str, object] | None = None
    strict: StrictBool = False


class ToolBody(Shape):
    type: Literal["function"]
    function: ToolFunction


class FunctionName(Shape):
    name: StrictStr


class ChosenTool(Shape):
    type: Literal["function"]
    function: FunctionName


class SchemaBody(Shape):
    name: StrictStr | None = None
    description: StrictStr | None = None
    strict: StrictBool = False
    form: dict[str, object] = Field(alias="schema")


class ResponseFormat(Shape):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaBody | None = None

    @model_validator(mode="after")
    def _with_its_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError('give {"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}')
        return self


class StreamOptions(Shape):
    model_config = ConfigDict(extra="ignore")

    include_usage: StrictBool = False


#: Say nothing about the answer.
_HARMLESS = frozenset(
    "user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention".split()
)
#: Not done here: any other value than these is refused.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "echo": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
    "add_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "return_token_strs": (False,),
    "background": (False,),
    "include": ([],),
    "truncation": ("disabled",),
}


class RequestBody(Shape):
    model: StrictStr | None = None
    seka: SekaBody = SekaBody()

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_done(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        given = {k: v for k, v in values.items() if k not in _HARMLESS}
        for name in [name for name, neutral in _NEUTRAL.items() if name in given and given[name] in (None, *neutral)]:
            del given[name]
        return given


#: Options of a chat template: plain values only.
TemplateOptions = dict[str, StrictBool | Whole | Number | Annotated[StrictStr, Field(max_length=64)]]


class GeneratingBody(RequestBody):
    max_tokens: Annotated[Whole, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=1, lt=2**31)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Number, Field(gt=0, le=100)] | None = None
    seed: Annotated[Whole, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StrictStr | list[StrictStr] | None = None
    response_format: ResponseFormat | None = None
    stream: StrictBool = False
    stream_options: StreamOptions = StreamOptions()
    n: Annotated[Whole, Field(ge=1)] = 1


class ChatBody(GeneratingBody):
    messages: Annotated[list[MessageBody], Field(min_length=1)]
    max_completion_tokens: Annotated[Whole, Field(ge=1)] | None = None
    tools: list[ToolBody] = []
    tool_choice: StrictStr | ChosenTool | None = None
    parallel_tool_calls: StrictBool = True
    logprobs: StrictBool = False
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] = 0
    chat_template_kwargs: TemplateOptions = {}

    @model_validator(mode="after")
    def _tops_of_something(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


class CompletionBody(GeneratingBody):
    prompt: StrictStr | Annotated[list[StrictStr], Field(min_length=1, max_length=1)]
    logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None

    @field_validator("logprobs", mode="before")
    @classmethod
    def _none_at_all(cls, value: object) -> object:
        return None if value is False else value


class InputItem(Shape):
    """A message of ``/v1/responses``, or an output of it that comes back."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | list[Part]
    id: StrictStr | None = None
    status: StrictStr | None = None


class TextFormat(Shape):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: StrictStr | None = None
    description: StrictStr | None = None
    strict: StrictBool = False
    form: dict[str, object] | None = Field(default=None, alias="schema")

    @model_validator(mode="after")
    def _with_its_schema(self) -> TextFormat:
        if self.type == "json_schema" and self.form is None:
            raise ValueError('give {"type": "json_schema", "name": ..., "schema": {...}}')
        return self


class TextBody(Shape):
    format: TextFormat = TextFormat()


class ResponsesBody(RequestBody):
    """``/v1/responses`` in its plain form: text in, text out, nothing kept."""

    input: Annotated[StrictStr, Field(min_length=1)] | Annotated[list[InputItem], Field(min_length=1)]
    instructions: StrictStr | None = None
    max_output_tokens: Annotated[Whole, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    text: TextBody = TextBody()
    tools: Annotated[list[object], Field(max_length=0)] = []
    tool_choice: Literal["auto", "none"] = "auto"
    parallel_tool_calls: StrictBool = True
    stream: StrictBool = False
    stream_options: StreamOptions = StreamOptions()
    chat_template_kwargs: TemplateOptions = {}


class ExcerptBody(Shape):
    """A sentence of a passage, or a whole one: characters of a message's text, or of the prompt.

    Attributes:
        passage: the client's number of the passage.
    """

    passage: Annotated[Whole, Field(ge=0)]
    message: Whole | None = None
    start: Whole
    end: Whole


class TokenizeBody(RequestBody):
    prompt: StrictStr | None = None
    messages: Annotated[list[MessageBody], Field(min_length=1)] | None = None
    tools: list[ToolBody] = []
    chat_template_kwargs: TemplateOptions = {}

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages")
        return self


class CitationsBody(TokenizeBody):
    """``/v1/citations``: which of these excerpts of a prompt an answer to it rests on."""

    answer: StrictStr
    excerpts: Annotated[list[ExcerptBody], Field(max_length=4096)]
