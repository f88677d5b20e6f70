"""What goes over the wire: calls as bodies of OpenAI's API with ``seka`` beside them, and answers read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from typing import Any

from seka_rag import errors
from seka_rag.errors import RemoteError, SekaError, SettingError, TokenizationError
from seka_rag.hf.forms import as_schema
from seka_rag.model.call import check_one_answer
from seka_rag.model.citations import Citation, Excerpt
from seka_rag.model.generation import Generation
from seka_rag.model.scope import in_scope, messages_in_scope
from seka_rag.steering.base import SteeringReport
from seka_rag.steering.registry import as_steering, steering_as_dict
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span
from seka_rag.text.toolcalls import InvalidToolCall, Tool, ToolCall, as_tool_call, tool_name

#: Options of a call, and what they are called on the wire.
_NAMES = {"max_new_tokens": "max_tokens", "num_return_sequences": "n"} | {
    name: name for name in ("stop", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
}
OPTIONS = frozenset({*_NAMES, "steering", "json_schema", "tools", "tool_choice", "strict", "timeout"})
_MESSAGE = ("role", "content", "name", "tool_calls", "tool_call_id")


def prompt_body(prompt: Prompt | str, options: Mapping[str, Any]) -> dict[str, object]:
    """A prompt to continue."""
    if not isinstance(prompt, Prompt | str):
        raise TokenizationError(f"a remote model takes text, a str or Prompt, not {type(prompt).__name__}")
    marked = in_scope(prompt if isinstance(prompt, Prompt) else Prompt(prompt))
    return _body({"prompt": marked.text}, [_span(s) for s in marked.spans], options)


def chat_body(
    messages: Sequence[Mapping[str, object]],
    options: Mapping[str, Any],
    template: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """A conversation, and options of its template.

    Raises:
        SettingError: several answers are asked for, or a message holds what a server does not take.
    """
    check_one_answer(options)
    sent, spans = [], []
    for i, message in enumerate(messages_in_scope(messages)):
        if unknown := sorted(set(message) - {*_MESSAGE}):
            raise SettingError(f"message {i}: a server takes no {', '.join(unknown)}")
        fields = {key: value for key, value in message.items() if value is not None}
        content = fields.get("content", "")
        if isinstance(content, Prompt):
            spans += [{"message": i, **_span(s)} for s in content.spans]
        fields["content"] = str(content)
        if fields.get("tool_calls"):
            fields["tool_calls"] = [_call(call) for call in fields["tool_calls"]]
        sent.append(fields)
    body: dict[str, object] = {"messages": sent, **({"chat_template_kwargs": dict(template)} if template else {})}
    return _body(body, spans, options)


def _body(body: dict[str, object], spans: list[dict[str, object]], options: Mapping[str, Any]) -> dict[str, object]:
    if unknown := sorted(set(options) - OPTIONS):
        raise SettingError(
            f"a remote model takes no option {', '.join(unknown)}: it takes {', '.join(sorted(OPTIONS))}"
        )
    steering = steering_as_dict(as_steering(options.get("steering", "auto")))
    body["seka"] = {"spans": spans, "steering": steering, **({"strict": True} if options.get("strict") else {})}
    body |= {wire: options[name] for name, wire in _NAMES.items() if options.get(name) is not None}
    if options.get("json_schema") is not None:
        schema = as_schema(options["json_schema"])
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    if options.get("tools"):
        choice = options.get("tool_choice", "auto")
        named = {"type": "function", "function": {"name": choice}}
        body["tools"] = _tools(options["tools"])
        body["tool_choice"] = {"any": "required", "auto": "auto", "none": "none", "required": "required"}.get(
            choice, named
        )
    return body


def citations_body(
    prompt: Prompt | str | Sequence[Mapping[str, object]],
    answer: str,
    excerpts: Sequence[Excerpt],
    template: Mapping[str, object],
) -> dict[str, object]:
    """An answer to a prompt or a conversation, and the excerpts that it may rest on."""
    single = isinstance(prompt, Prompt | str)
    options = {"tools": template["tools"]} if template.get("tools") else {}
    others = {name: value for name, value in template.items() if name != "tools"}
    body = prompt_body(prompt, {}) if single else chat_body(prompt, options, others)  # type: ignore[arg-type]  # `single` says which it is
    body = {name: value for name, value in body.items() if name not in ("seka", "tool_choice")}
    sent = [
        {"passage": e.passage, "start": e.place.start, "end": e.place.end} | ({} if single else {"message": e.message})
        for e in excerpts
    ]
    return {**body, "answer": answer, "excerpts": sent}


def read_citations(answer: Mapping[str, Any], excerpts: Sequence[Excerpt], *, url: str) -> tuple[Citation, ...]:
    """The citations in an answer of ``/v1/citations``, of these excerpts.

    Raises:
        RemoteError: it is not in the form of our servers.
    """
    try:
        found = []
        for own in answer["citations"]:
            there = excerpts[own["excerpt"]]
            place = (there.passage, there.start, there.end)
            found.append(Citation(own["answer_start"], own["answer_end"], *place, own["share"], own["excerpt"]))
        return tuple(found)
    except (KeyError, IndexError, TypeError):
        raise RemoteError(f"{url} answered, but not with citations as seka-rag's server gives them") from None


def _span(span: Span) -> dict[str, object]:
    return {"start": span.start, "end": span.end, "weight": span.weight, "source": span.source}


def _tools(tools: Sequence[Tool]) -> list[Tool]:
    try:
        for tool in tools:
            tool_name(tool)
    except ValueError as error:
        raise TokenizationError(str(error)) from None
    return list(tools)


def _call(value: object) -> dict[str, object]:
    try:
        call = as_tool_call(value)
    except ValueError as error:
        raise TokenizationError(str(error)) from error
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


# --- answers


def read_answer(answer: Mapping[str, Any], *, url: str) -> list[Generation]:
    """The Generations in a whole answer.

    Raises:
        RemoteError: it is not in the form of our servers, so nothing says whether it was steered.
    """
    try:
        usage, choices = answer["usage"], answer["choices"]
        counts = answer["seka"].get("completion_tokens") or [usage["completion_tokens"]]
        return [
            _generation(choice, answer["seka"], usage["prompt_tokens"], count)
            for choice, count in zip(choices or [None], counts, strict=True)
        ]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise RemoteError(
            f"{url} answered, but without a steering report as seka-rag's server gives it, so nothing says that it steered. "
            "Is it another kind of server?"
        ) from None


def _generation(
    choice: Mapping[str, Any], report: Mapping[str, Any], prompt_tokens: int, completion_tokens: int
) -> Generation:
    message = choice.get("message") or {**choice, "content": choice.get("text")}
    return Generation(
        message.get("content") or "",
        _report(report),
        prompt_tokens,
        completion_tokens,
        "length" if choice["finish_reason"] == "length" else "stop",
        tuple(_tool_call(call) for call in message.get("tool_calls") or ()),
        tuple(InvalidToolCall(**call) for call in report.get("invalid_tool_calls", ())),
        message.get("reasoning_content"),
    )


def piece_of(chunk: Mapping[str, Any]) -> str:
    """The new text in a chunk of a stream."""
    choice = (chunk.get("choices") or [{}])[0]
    return (choice.get("delta") or choice).get("content" if "delta" in choice else "text") or ""


def joined(chunks: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """The chunks of a stream as one whole answer."""
    choices = [chunk["choices"][0] for chunk in chunks if chunk.get("choices")]
    calls = [call for choice in choices for call in (choice.get("delta") or {}).get("tool_calls") or ()]
    thoughts = [t for choice in choices if (t := (choice.get("delta") or choice).get("reasoning_content")) is not None]
    message = {"content": "".join(map(piece_of, chunks)), "tool_calls": calls}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    reason = next((c["finish_reason"] for c in reversed(choices) if c.get("finish_reason")), None)
    whole = {key: chunk[key] for chunk in chunks for key in ("model", "usage", "seka") if chunk.get(key)}
    return {**whole, "choices": [{"message": message, "finish_reason": reason}] if reason else []}


def read_error(status: int, body: object, *, url: str) -> SekaError:
    """The error that a server answers with, of the same class as it would be here."""
    given = body.get("error") if isinstance(body, Mapping) else None
    given = given if isinstance(given, Mapping) else {}
    kind = getattr(errors, str(given.get("code")), None)
    message = str(given.get("message") or f"status {status}")
    if not (isinstance(kind, type) and issubclass(kind, SekaError)):
        kind = {401: errors.AccessError, 429: errors.BusyError, 503: errors.BusyError}.get(status, RemoteError)
        message = f"{url} answered with {status}: {message}"
    error: SekaError = kind.__new__(kind, message)  # some classes make their message of other arguments
    error.args = (message,)
    error.field = given.get("param")
    return error


def _report(report: Mapping[str, Any]) -> SteeringReport:
    values = {f.name: report[f.name] for f in dataclass_fields(SteeringReport) if f.name != "routing"}
    return replace(SteeringReport(**values), layers=tuple(report["layers"]))


def _tool_call(call: Mapping[str, Any]) -> ToolCall:
    return ToolCall(call["function"]["name"], json.loads(call["function"]["arguments"]), call["id"])
