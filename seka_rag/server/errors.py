"""Errors in the form of OpenAI. They name what was wrong; never a traceback, never text of a document."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

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
_NO_OBJECT = ("missing", "dict_type", "model_type", "model_attributes_type")
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class BodyTooLarge(HTTPException):
    """Raised while a body is read."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the request is larger than the {limit} bytes that this server takes")


def status_of(error: Exception) -> int:
    if isinstance(error, HTTPException):
        return error.status_code
    if isinstance(error, SekaError):
        return _STATUS.get(type(error), 400)
    return 400 if isinstance(error, RequestValidationError | RecursionError) else 500


def error_body(error: Exception) -> dict[str, Any]:
    """The body of an error."""
    status, param = status_of(error), None
    code = type(error).__name__ if isinstance(error, SekaError) else RequestError.__name__
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = [str(part) for part in first["loc"] if part != "body"]
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "json_invalid" or (not where and first["type"] in _NO_OBJECT):
            where = []
            message = "the body must be one JSON object, sent with the header Content-Type = application/json"
        param = where[0] if where else message.split(":")[0] if ":" in message else None
        message = f"{'.'.join(where)}: {message}" if where else message
    elif isinstance(error, BodyTooLarge):
        message, code = error.detail, LimitError.__name__
    elif isinstance(error, HTTPException):
        message = error.detail
    elif isinstance(error, SekaError):
        message = str(error)
    elif isinstance(error, RecursionError):
        message = "the request is nested too deeply"
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
        log.error("%s at %s:%s", type(error).__name__, frame and frame.filename, frame and frame.lineno)
        message, code = "the server failed; its log says where", "InternalError"
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: Exception) -> JSONResponse:
    status = status_of(error)
    headers = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(status)
    return JSONResponse(error_body(error), status, headers)
