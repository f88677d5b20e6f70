"""Errors in the form of OpenAI. They name what was wrong; never a traceback, never text of a document."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from seka_rag.errors import (
    AccessError,
    BusyError,
    GenerationTimeoutError,
    LimitError,
    MissingExtraError,
    ModelNotFoundError,
    RequestError,
    SekaError,
    SteeringError,
)

log = logging.getLogger("seka_rag.server")
_STATUS: dict[type[SekaError], int] = {
    AccessError: 401,
    ModelNotFoundError: 404,
    BusyError: 429,
    SteeringError: 500,
    MissingExtraError: 501,
    GenerationTimeoutError: 504,
}
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class BodyTooLarge(HTTPException):
    """Raised while a body is read."""

    code = LimitError.__name__

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the request is larger than the {limit} bytes that this server takes")


class SlowRequest(HTTPException):
    """A body that has not arrived in time."""

    code = GenerationTimeoutError.__name__

    def __init__(self, seconds: float) -> None:
        super().__init__(408, f"the request did not arrive within {seconds:g} seconds")


class Unavailable(HTTPException):
    """The server answers nobody at the moment, and may do so later."""

    code = BusyError.__name__

    def __init__(self, message: str) -> None:
        super().__init__(503, message)


class ClientGone(HTTPException):
    """The client closed its connection. The status is for the log: nobody reads it."""

    code = "ClientGone"

    def __init__(self) -> None:
        super().__init__(499, "the client is gone")


@contextmanager
def at_field(field: str) -> Iterator[None]:
    """Errors inside are about this field of the request, unless they name another one."""
    try:
        yield
    except SekaError as error:
        error.field = error.field or field
        raise


def status_of(error: Exception) -> int:
    if isinstance(error, HTTPException):
        return error.status_code
    if isinstance(error, SekaError):
        return _STATUS.get(type(error), 400)
    return 500


def kind_of(error: Exception) -> str:
    """The kind of an error, as answers, figures and the log tell it: the name of its class, where it is one of ours."""
    if isinstance(error, SekaError):
        return type(error).__name__
    return getattr(error, "code", RequestError.__name__) if isinstance(error, HTTPException) else "InternalError"


def error_body(error: Exception) -> dict[str, dict[str, str | None]]:
    """The body of an error; one that nobody foresaw is logged with its place."""
    status = status_of(error)
    if isinstance(error, HTTPException):
        message = error.detail
    elif isinstance(error, SekaError):
        message = str(error)
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
        log.error("%s at %s:%s", type(error).__name__, frame and frame.filename, frame and frame.lineno)
        message = "the server failed; its log says where"
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    field = error.field if isinstance(error, SekaError) else None
    return {"error": {"message": message, "type": kind, "param": field, "code": kind_of(error)}}


def error_response(error: Exception) -> JSONResponse:
    """The answer that an error is; its headers say whether the same request may be sent again."""
    status = status_of(error)
    headers = dict(getattr(error, "headers", None) or {})
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers |= {"Retry-After": "1", "x-should-retry": "true"}
    elif status >= 408:  # it would fail again, or the time that it took is wasted again
        headers["x-should-retry"] = "false"
    return JSONResponse(error_body(error), status, headers)
