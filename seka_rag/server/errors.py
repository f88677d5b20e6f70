"""Errors in the form of OpenAI. They name what was wrong; never a traceback, never text of a document."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the request is larger than the {limit} bytes that this server takes")


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


def error_body(error: Exception) -> dict[str, Any]:
    """The body of an error."""
    status, field = status_of(error), None
    code = type(error).__name__ if isinstance(error, SekaError) else RequestError.__name__
    if isinstance(error, BodyTooLarge):
        message, code = error.detail, LimitError.__name__
    elif isinstance(error, HTTPException):
        message = error.detail
    elif isinstance(error, SekaError):
        message, field = str(error), error.field
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
        log.error("%s at %s:%s", type(error).__name__, frame and frame.filename, frame and frame.lineno)
        message, code = "the server failed; its log says where", "InternalError"
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}


def error_response(error: Exception) -> JSONResponse:
    status = status_of(error)
    headers = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(status)
    return JSONResponse(error_body(error), status, headers)
