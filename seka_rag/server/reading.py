"""From a request to a call of the model: prompts with highlights, and options within the limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from seka_rag.errors import LimitError, ModelNotFoundError, RequestError, SettingError, SpanError
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.model.steered import SteeredModel
from seka_rag.server.bodies import ChatBody, CompletionBody, MessageBody, SpanBody, TokenizeBody
from seka_rag.server.settings import ServerSettings
from seka_rag.steering.base import SteeringMethod
from seka_rag.steering.registry import as_steering
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span


@dataclass(frozen=True)
class Call:
    """One request, checked: a conversation or a prompt, and the options of ``SteeredModel.generate``."""

    prompt: Prompt | list[dict[str, Any]]
    options: dict[str, Any]
    one_call: bool = False

    def tokens(self, model: SteeredModel, settings: ServerSettings) -> TokenizedPrompt:
        """The prompt as tokens.

        Raises:
            LimitError: more than the server takes.
        """
        if isinstance(self.prompt, Prompt):
            tokens = model.tokenize(self.prompt)
        else:
            tools = self.options.get("tools") if self.options.get("tool_choice") != "none" else None
            tokens = model.tokenize_chat(self.prompt, **({"tools": tools} if tools else {}))
        limit = settings.max_prompt_tokens
        if limit is not None and len(tokens) > limit:
            raise LimitError(f"the prompt has {len(tokens)} tokens; this server takes {limit}")
        return tokens

    def highlights(self) -> list[dict[str, Any]]:
        """Where the highlights are, without any text."""
        return [
            {"message": i, "start": s.start, "end": s.end, "weight": s.weight, "source": s.source}
            for i, prompt in enumerate(_prompts(self.prompt))
            for s in prompt.spans
        ]


def read_call(body: ChatBody | CompletionBody, model: SteeredModel, settings: ServerSettings) -> Call:
    """What a body asks for.

    Raises:
        SekaError: of one of the classes for bad requests, see ``errors.status_of``.
    """
    check_model(body.model, model)
    steering = _steering(body.seka.steering)
    chat = isinstance(body, ChatBody)
    prompt: Prompt | list[dict[str, Any]]
    if isinstance(body, ChatBody):
        prompt = read_messages(body.messages, body.seka.spans)
        new = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    else:
        text = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
        prompt, new = read_prompt(text, body.seka.spans), body.max_tokens
    check_limits(_spans(prompt), steering, model, settings)
    if new is not None and new > settings.max_new_tokens:
        raise LimitError(f"max_tokens={new}: this server gives at most {settings.max_new_tokens}")
    options: dict[str, Any] = {
        "max_new_tokens": min(256, settings.max_new_tokens) if new is None else new,
        "stop": body.stop,
        "json_schema": _schema(body.response_format),
        **{
            name: getattr(body, name)
            for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
        },
    }
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(body, ChatBody) and body.tools:
        strict = body.seka.strict or any((t.get("function") or {}).get("strict") is True for t in body.tools)
        options |= {"tools": body.tools, "tool_choice": _choice(body.tool_choice), "strict": strict}
    elif isinstance(body, ChatBody) and body.tool_choice not in (None, "none", "auto"):
        raise RequestError("tool_choice: there are no tools to choose from")
    return Call(prompt, {**options, "steering": steering}, chat and not body.parallel_tool_calls)  # type: ignore[union-attr]


def read_tokenize(body: TokenizeBody, model: SteeredModel, settings: ServerSettings) -> Call:
    check_model(body.model, model)
    spans = body.seka.spans
    if body.messages is None:
        prompt: Any = read_prompt(body.prompt or "", spans)
    else:
        prompt = read_messages(body.messages, spans)
    check_limits(_spans(prompt), None, model, settings)
    return Call(prompt, {"tools": body.tools} if body.tools else {})


def check_model(name: str | None, model: SteeredModel) -> None:
    if name not in (None, model.name):
        raise ModelNotFoundError(f"this server has no model of that name: it serves {model.name!r}")


def read_messages(messages: Sequence[MessageBody], spans: Sequence[SpanBody]) -> list[dict[str, Any]]:
    """Messages as ``SteeredModel.chat`` takes them, each with its highlights."""
    by_message: dict[int, list[SpanBody]] = {}
    for span in spans:
        if span.message is None or not 0 <= span.message < len(messages):
            raise SpanError(f"seka.spans: message {span.message} of a conversation of {len(messages)}")
        by_message.setdefault(span.message, []).append(span)
    read = []
    for i, message in enumerate(messages):
        content = message.content
        parts = [] if content is None else [content] if isinstance(content, str) else content
        text = Prompt("")
        for part in parts:
            text += part if isinstance(part, str) else _part(part.text, part.highlight, part.source, i)
        fields: dict[str, Any] = {"role": message.role, "content": _marked(text, by_message.get(i, ()))}
        fields |= {
            key: value for key in ("name", "tool_calls", "tool_call_id") if (value := getattr(message, key)) is not None
        }
        read.append(fields)
    return read


def read_prompt(text: str, spans: Sequence[SpanBody]) -> Prompt:
    if any(span.message not in (None, 0) for span in spans):
        raise SpanError("seka.spans: a prompt has no messages")
    return _marked(Prompt(text), spans)


def check_limits(spans: Sequence[Span], steering: Any, model: SteeredModel, settings: ServerSettings) -> None:
    if len(spans) > settings.max_spans:
        raise LimitError(f"{len(spans)} highlights: this server takes {settings.max_spans} in a request")
    weight = max([1.0, *(s.weight for s in spans)])
    method = model.usual_steering if steering == "auto" else steering
    strongest = max(map(abs, method.strengths), default=0.0) if isinstance(method, SteeringMethod) else 0.0
    if strongest * weight > settings.max_gain:
        raise LimitError(
            f"gain {strongest:g} with weight {weight:g}: this server steers with at most {settings.max_gain:g}"
        )


def _prompts(prompt: Prompt | list[dict[str, Any]]) -> list[Prompt]:
    return [prompt] if isinstance(prompt, Prompt) else [message["content"] for message in prompt]


def _spans(prompt: Prompt | list[dict[str, Any]]) -> list[Span]:
    return [span for part in _prompts(prompt) for span in part.spans]


def _part(text: str, highlight: bool | float, source: str | None, message: int) -> Prompt:
    if highlight is False:
        return Prompt(text)
    if not text:
        raise SpanError(f"message {message} highlights a part without text")
    return Prompt(text).mark(0, len(text), float(highlight), source)


def _marked(prompt: Prompt, spans: Sequence[SpanBody]) -> Prompt:
    for span in spans:
        prompt = prompt.mark(span.start, span.end, span.weight, span.source)
    return prompt


def _steering(value: Any) -> Any:
    try:
        return as_steering(value)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingError(f"seka.steering: {wrong}") from None
    except SettingError:
        raise SettingError(
            'seka.steering: "auto", null, or {"method": a method of the server such as "Seka", "gain": ...}'
        ) from None


def _choice(value: str | Mapping[str, Any] | None) -> str:
    if isinstance(value, Mapping):
        named = value.get("function") if value.get("type") == "function" else None
        if not isinstance(named, Mapping) or not isinstance(named.get("name"), str):
            raise RequestError(
                'tool_choice: "auto", "none", "required" or {"type": "function", "function": {"name": ...}}'
            )
        return named["name"]
    return {None: "auto", "required": "any"}.get(value, value)  # type: ignore[return-value]


def _schema(response_format: Mapping[str, Any] | None) -> Any:
    kind = (response_format or {"type": "text"}).get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return True
    inner = response_format.get("json_schema") if response_format and kind == "json_schema" else None
    if isinstance(inner, Mapping) and isinstance(inner.get("schema"), Mapping):
        return inner["schema"]
    raise RequestError(
        'response_format: {"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}, {"type": "json_object"} or '
        '{"type": "text"}'
    )
