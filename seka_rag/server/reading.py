"""From a body to a request of the model: prompts with highlights, and options within the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from seka_rag.errors import (
    LimitError,
    ModelNotFoundError,
    RequestError,
    SettingError,
    SpanError,
)
from seka_rag.model.citations import Excerpt
from seka_rag.model.steered import SteeredModel
from seka_rag.server.bodies import (
    ChatBody,
    ChosenTool,
    CitationsBody,
    CompletionBody,
    InputItem,
    MessageBody,
    ResponseFormat,
    ResponsesBody,
    SpanBody,
    TokenizeBody,
    ToolBody,
)
from seka_rag.server.errors import at_field
from seka_rag.server.model_request import ModelRequest
from seka_rag.server.settings import ServerSettings
from seka_rag.steering.base import SteeringMethod
from seka_rag.steering.registry import as_steering
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span
from seka_rag.text.toolcalls import choose

_OPTIONS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")


def read_request(
    body: ChatBody | CompletionBody | ResponsesBody, model: SteeredModel, settings: ServerSettings
) -> ModelRequest:
    """What a body asks of the model.

    Raises:
        SekaError: of one of the classes for bad requests, see ``errors.status_of``.
    """
    check_model(body.model, model, settings)
    if isinstance(body, ChatBody):
        request = _chat(body)
        new_field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    elif isinstance(body, CompletionBody):
        text = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
        request = ModelRequest(
            read_prompt(text, body.seka.spans), "prompt", options=_form(body.response_format), top=body.logprobs
        )
        new_field = "max_tokens"
    else:
        request, new_field = _response(body), "max_output_tokens"
    with at_field("seka.steering"):
        steering = as_steering(body.seka.steering)
    check_strength(request, steering, model, settings)
    new = getattr(body, new_field)
    with at_field(new_field):
        if new is not None and new > settings.max_new_tokens:
            raise LimitError(f"{new_field}={new}: this server gives at most {settings.max_new_tokens}")
    choices = getattr(body, "n", 1)
    with at_field("n"):
        if choices > settings.max_choices:
            raise LimitError(f"n={choices}: this server gives at most {settings.max_choices} answers to a request")
    options = {name: value for name in _OPTIONS if (value := getattr(body, name, None)) is not None}
    return replace(
        request,
        options={
            "steering": steering,
            "max_new_tokens": min(256, settings.max_new_tokens) if new is None else new,
            **options,
            **request.options,
        },
        choices=choices,
        stream=body.stream,
        with_usage=body.stream_options.include_usage,
    )


def _chat(body: ChatBody) -> ModelRequest:
    return ModelRequest(
        read_messages(body.messages, body.seka.spans),
        "messages",
        options={**_tool_options(body), **_form(body.response_format)},
        template=body.chat_template_kwargs,
        top=body.top_logprobs if body.logprobs else None,
        one_call=not body.parallel_tool_calls,
    )


def _response(body: ResponsesBody) -> ModelRequest:
    """The items of ``input`` are numbered from 0; the instructions are a message of the system before them."""
    items = body.input if isinstance(body.input, list) else [InputItem(role="user", content=body.input)]
    messages = [MessageBody(role=item.role, content=item.content) for item in items]
    read = read_messages(messages, body.seka.spans, "input")
    if body.instructions:
        read.insert(0, {"role": "system", "content": Prompt(body.instructions)})
    form = body.text.format
    return ModelRequest(
        read,
        "input",
        "text.format",
        options={} if form.type == "text" else {"json_schema": True if form.type == "json_object" else form.form},
        template=body.chat_template_kwargs,
        first_message=-1 if body.instructions else 0,
    )


def _form(form: ResponseFormat | None) -> dict[str, object]:
    if form is None or form.type == "text":
        return {}
    return {"json_schema": True if form.json_schema is None or form.type == "json_object" else form.json_schema.form}


def read_tokenize(body: TokenizeBody, model: SteeredModel, settings: ServerSettings) -> ModelRequest:
    check_model(body.model, model, settings)
    if body.messages is None:
        request = ModelRequest(read_prompt(body.prompt or "", body.seka.spans), "prompt")
    else:
        messages = read_messages(body.messages, body.seka.spans)
        tools = {"tools": _tools(body.tools)} if body.tools else {}
        request = ModelRequest(messages, "messages", options=tools, template=body.chat_template_kwargs)
    check_strength(request, None, model, settings)
    return request


def read_excerpts(body: CitationsBody, request: ModelRequest) -> list[Excerpt]:
    """The excerpts, each within its message.

    Raises:
        SpanError: one that is not, or a message that is not there.
    """
    texts = [prompt.text for prompt in request.prompts]
    excerpts = []
    for i, own in enumerate(body.excerpts):
        with at_field(f"excerpts[{i}].message"):
            number = own.message or 0 if body.messages is None else own.message
            if number is None or number not in range(len(texts)):
                raise SpanError(f"excerpts: message {number} of {len(texts)}")
        with at_field(f"excerpts[{i}]"):
            place = Span(own.start, own.end)
            Prompt(texts[number], (place,))  # within the text
        excerpts.append(Excerpt(own.passage, own.start, own.end, number, place))
    return excerpts


def check_model(name: str | None, model: SteeredModel, settings: ServerSettings) -> None:
    served = settings.served_name or model.name
    with at_field("model"):
        if name not in (None, served):
            raise ModelNotFoundError(f"this server has no model of that name: it serves {served!r}")


def read_messages(
    messages: Sequence[MessageBody], spans: Sequence[SpanBody], body_field: str = "messages"
) -> list[dict[str, object]]:
    """Messages as ``SteeredModel.chat`` takes them, each with its highlights."""
    numbers = range(len(messages))
    by_message: dict[int, list[tuple[int, SpanBody]]] = {}
    for i, span in enumerate(spans):
        with at_field(f"seka.spans[{i}].message"):
            if span.message not in numbers:
                raise SpanError(f"seka.spans: message {span.message} of a conversation of {len(messages)}")
        by_message.setdefault(span.message, []).append((i, span))  # type: ignore[arg-type]  # it is one of the numbers
    return [_message(f"{body_field}[{i}]", message, by_message.get(i, ())) for i, message in enumerate(messages)]


def _message(place: str, message: MessageBody, spans: Sequence[tuple[int, SpanBody]]) -> dict[str, object]:
    parts = message.content if isinstance(message.content, list) else []
    marked = []
    for i, part in enumerate(parts):
        with at_field(f"{place}.content[{i}]"):
            if part.highlight is not False and not part.text:
                raise SpanError(f"{place} highlights a part without text")
            whole = [Span(0, len(part.text), float(part.highlight), part.source)] if part.highlight is not False else []
            marked.append(Prompt(part.text, tuple(whole)))
    text = Prompt(message.content or "") if not isinstance(message.content, list) else Prompt.join(marked, "")
    fields: dict[str, object] = {"role": message.role, "content": _marked(text, spans)}
    if message.tool_calls:
        fields["tool_calls"] = [call.model_dump(exclude_none=True, exclude={"index"}) for call in message.tool_calls]
    return fields | {key: value for key in ("name", "tool_call_id") if (value := getattr(message, key)) is not None}


def read_prompt(text: str, spans: Sequence[SpanBody]) -> Prompt:
    for i, span in enumerate(spans):
        with at_field(f"seka.spans[{i}].message"):
            if span.message not in (None, 0):
                raise SpanError("seka.spans: a prompt has no messages")
    return _marked(Prompt(text), list(enumerate(spans)))


def _marked(prompt: Prompt, spans: Sequence[tuple[int, SpanBody]]) -> Prompt:
    added = []
    for i, span in spans:
        with at_field(f"seka.spans[{i}]"):
            added.append(Span(span.start, span.end, span.weight, span.source))
            Prompt(prompt.text, (added[-1],))  # within the text
    return replace(prompt, spans=(*prompt.spans, *added))


def check_strength(request: ModelRequest, steering: object, model: SteeredModel, settings: ServerSettings) -> None:
    """Raise if there are more highlights, or stronger ones, than the server takes.

    Raises:
        LimitError: so it is.
    """
    spans = [span for _, span in request.spans]
    with at_field("seka.spans"):
        if len(spans) > settings.max_spans:
            raise LimitError(f"{len(spans)} highlights: this server takes {settings.max_spans} in a request")
    weight = max([1.0, *(s.weight for s in spans)])
    method = model.usual_steering if steering == "auto" else steering
    strongest = max(map(abs, method.strengths), default=0.0) if isinstance(method, SteeringMethod) else 0.0
    with at_field("seka.spans" if weight > 1 else "seka.steering"):
        if strongest * weight > settings.max_gain:
            raise LimitError(
                f"gain {strongest:g} with weight {weight:g}: this server steers with at most {settings.max_gain:g}"
            )


def _tool_options(body: ChatBody) -> dict[str, object]:
    if not body.tools:
        with at_field("tool_choice"):
            if body.tool_choice not in (None, "none", "auto"):
                raise RequestError("tool_choice: there are no tools to choose from")
        return {}
    strict = body.seka.strict or any(tool.function.strict for tool in body.tools)
    if isinstance(body.tool_choice, ChosenTool):
        choice = body.tool_choice.function.name
    else:
        choice = {None: "auto", "required": "any"}.get(body.tool_choice, body.tool_choice)  # type: ignore[assignment]  # None is a key
    tools = _tools(body.tools)
    with at_field("tool_choice"):
        try:
            choose(tools, choice)
        except ValueError as error:
            raise SettingError(str(error)) from None
    return {"tools": tools, "tool_choice": choice, "strict": strict}


def _tools(tools: Sequence[ToolBody]) -> list[dict[str, object]]:
    return [tool.model_dump(exclude_unset=True) for tool in tools]
