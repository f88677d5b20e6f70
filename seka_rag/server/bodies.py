"""What requests may hold, in the form of OpenAI. Shapes only; what they ask for is read in ``reading``."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


Number = StrictFloat | StrictInt


class SpanBody(_Strict):
    """A highlight: characters of a message's text, or of the prompt."""

    message: StrictInt | None = None
    start: StrictInt
    end: StrictInt
    weight: Number = 1.0
    source: str | None = Field(default=None, max_length=512)


class SekaBody(_Strict):
    spans: list[SpanBody] = []
    steering: Literal["auto"] | dict[str, Any] | None = "auto"
    strict: StrictBool = False


class Part(_Strict):
    """A content part. ``highlight`` marks the whole of it, with a weight."""

    type: Literal["text"]
    text: str
    highlight: StrictBool | Number = False
    source: str | None = Field(default=None, max_length=512)


class MessageBody(_Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    refusal: None = None


class StreamOptions(BaseModel):
    include_usage: bool = False


#: Say nothing about the answer.
_HARMLESS = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
#: Not done here: any other value than these is refused.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "echo": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
    "add_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "return_token_strs": (False,),
}


class _Request(_Strict):
    model: str | None = None
    seka: SekaBody = SekaBody()

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_done(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("the request holds half of a surrogate pair, which is no character") from None
        for name, neutral in _NEUTRAL.items():
            if values.get(name) is not None and values[name] not in neutral:
                raise ValueError(f"{name}: this server does not do it; leave it out")
        return {k: v for k, v in values.items() if k not in _HARMLESS and k not in _NEUTRAL}


class _Generating(_Request):
    limit_names: ClassVar[tuple[str, ...]] = ("max_tokens",)

    max_tokens: StrictInt | None = Field(default=None, ge=1)
    temperature: Number | None = Field(default=None, ge=0, le=100)
    top_p: Number | None = Field(default=None, gt=0, le=1)
    top_k: StrictInt | None = Field(default=None, ge=1)
    min_p: Number | None = Field(default=None, ge=0, le=1)
    repetition_penalty: Number | None = Field(default=None, gt=0, le=100)
    seed: StrictInt | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    response_format: dict[str, Any] | None = None
    stream: StrictBool = False
    stream_options: StreamOptions | None = None


class ChatBody(_Generating):
    messages: Annotated[list[MessageBody], Field(min_length=1)]
    max_completion_tokens: StrictInt | None = Field(default=None, ge=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: StrictBool = True


class CompletionBody(_Generating):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]


class TokenizeBody(_Request):
    prompt: str | None = None
    messages: Annotated[list[MessageBody], Field(min_length=1)] | None = None
    tools: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages")
        return self
