"""From the bytes of a request to its body: limits are checked before anything that takes longer than reading it once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from seka_rag.errors import LimitError, RequestError
from seka_rag.server.bodies import Shape
from seka_rag.server.errors import at_field
from seka_rag.server.settings import ServerSettings

B = TypeVar("B", bound=Shape)
MAX_DEPTH = 64
MAX_STOPS, MAX_STOP = 16, 256
_NO_OBJECT = "the body must be one JSON object, sent with the header Content-Type = application/json"
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def parse(raw: bytes, content_type: str, kind: type[B], settings: ServerSettings) -> B:
    """The body of a request. Takes time linear in its length.

    Raises:
        RequestError: it is no JSON object, or a field has a wrong value; ``field`` says which.
        LimitError: it holds more than the server takes.
    """
    given = _object(raw, content_type)
    check_counts(given, settings)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _refused(error, given) from None


def _object(raw: bytes, content_type: str) -> dict[str, object]:
    media = content_type.partition(";")[0].strip().lower()
    try:
        given = json.loads(raw, parse_constant=_no_constant) if media == "application/json" else None
    except RecursionError:
        raise RequestError("the request is nested too deeply") from None
    except ValueError as error:
        raise RequestError(f"{_NO_OBJECT}: {error}" if raw else _NO_OBJECT) from None
    if not isinstance(given, dict):
        raise RequestError(_NO_OBJECT)
    if depth(given) > MAX_DEPTH:
        raise RequestError(f"the request is nested too deeply: this server takes {MAX_DEPTH} levels")
    if _HALF.search(raw):
        try:
            json.dumps(given, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise RequestError("the request holds half of a surrogate pair, which is no character") from None
    return given


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def depth(value: object) -> int:
    """How deeply lists and objects are nested; 0 for a plain value."""
    levels, here = 0, [value]
    while here := [v for v in here if isinstance(v, dict | list)]:
        levels += 1
        if levels > MAX_DEPTH:
            break
        here = [inner for v in here for inner in (v.values() if isinstance(v, dict) else v)]
    return levels


def check_counts(given: Mapping[str, object], settings: ServerSettings) -> None:
    """Raise if there are more parts than the server takes; whatever has another shape is left for later.

    Raises:
        LimitError: too many messages, tools, highlights or stop strings, or a schema that is too long.
    """
    for name in ("messages", "input"):
        messages = _items(given.get(name))
        inner = sum(
            len(_items(m.get(key))) for m in messages if isinstance(m, dict) for key in ("content", "tool_calls")
        )
        _check(name, "messages, parts and tool calls", len(messages) + inner, settings.max_messages)
    _check("tools", "tools", len(_items(given.get("tools"))), settings.max_tools)
    seka = given.get("seka")
    _check(
        "seka.spans",
        "highlights",
        len(_items(seka.get("spans") if isinstance(seka, dict) else None)),
        settings.max_spans,
    )
    stop = given.get("stop")
    stops = [stop] if isinstance(stop, str) else _items(stop)
    _check("stop", "stop strings", len(stops), MAX_STOPS)
    _check(
        "stop", "characters of a stop string", max((len(s) for s in stops if isinstance(s, str)), default=0), MAX_STOP
    )
    for field, schema in _schemas(given):
        _check(field, "characters of JSON schema", len(json.dumps(schema, ensure_ascii=False)), settings.max_schema)


def _check(field: str, what: str, count: int, limit: int) -> None:
    if count > limit:
        with at_field(field):
            raise LimitError(f"{field}: {count} {what}, and this server takes {limit} in a request")


def _items(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _schemas(given: Mapping[str, object]) -> list[tuple[str, Any]]:
    found = [(name, given[name]) for name in ("response_format", "text") if isinstance(given.get(name), dict)]
    return found + [(f"tools[{i}]", tool) for i, tool in enumerate(_items(given.get("tools")))]


# --- errors of fields


def _refused(error: ValidationError, given: object) -> RequestError:
    """The error of the field that was followed deepest: in a union, that is the kind that was meant."""
    found = [(_path(e["loc"], given, e["type"] == "missing"), e) for e in error.errors(include_url=False)]
    path, worst = max(found, key=lambda pair: len(pair[0]))
    message = worst["msg"].removeprefix("Value error, ")
    if worst["type"] == "extra_forbidden":
        message = "this server does not do it, or does not know it; leave it out"
    field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".") or None
    refused = RequestError(f"{field}: {message}" if field else message)
    refused.field = field
    return refused


def _path(loc: Sequence[str | int], given: object, missing: bool) -> list[str | int]:
    """The keys of a location that are the request's; pydantic puts names of types between them."""
    path: list[str | int] = []
    for i, key in enumerate(loc):
        if isinstance(given, dict) and isinstance(key, str) and (key in given or (missing and i == len(loc) - 1)):
            given = given.get(key)
        elif isinstance(given, list) and isinstance(key, int) and key < len(given):
            given = given[key]
        else:
            continue
        path.append(key)
    return path
