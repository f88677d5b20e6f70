"""The routes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from seka_rag.errors import SekaError
from seka_rag.model.generation import Generation
from seka_rag.model.steered import SteeredModel
from seka_rag.model.stream import TextStream
from seka_rag.server.admission import Admission
from seka_rag.server.answers import Form, event, report_of
from seka_rag.server.bodies import ChatBody, CompletionBody, TokenizeBody
from seka_rag.server.errors import error_body, error_response, log
from seka_rag.server.guard import RequestGuard
from seka_rag.server.reading import Call, read_call, read_tokenize
from seka_rag.server.settings import ServerSettings


class _Gone(Exception):  # noqa: N818
    """The client closed its connection."""


def build(model: SteeredModel, settings: ServerSettings) -> FastAPI:
    """The application; every request goes to this one model."""
    app = FastAPI(title="seka-rag", description=f"OpenAI-compatible, steered: {model.name}")
    admission = Admission(settings.max_concurrent, settings.max_queue, settings.timeout)
    started = int(time.time())
    app.add_middleware(RequestGuard, settings=settings)
    for kind in (SekaError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, lambda _, error: error_response(error))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        card = {"id": model.name, "object": "model", "created": started, "owned_by": "seka-rag"}
        seka = {"bank": model.bank.digest if model.bank else None, "can_call_tools": model.can_call_tools}
        return {"object": "list", "data": [{**card, "max_model_len": model.context_length, "seka": seka}]}

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        call = read_tokenize(body, model, settings)
        tokens = await asyncio.to_thread(call.tokens, model, settings)
        seka = {"weights": tokens.weights, "offsets": tokens.offsets}
        return {"count": len(tokens), "max_model_len": model.context_length, "tokens": tokens.ids, "seka": seka}

    @app.post("/v1/chat/completions")
    async def chat(body: ChatBody, request: Request) -> Response:
        return await respond(body, request)

    @app.post("/v1/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        return await respond(body, request)

    async def respond(body: ChatBody | CompletionBody, request: Request) -> Response:
        form = Form(model.name, isinstance(body, ChatBody))
        name, call = form.head(chunk=False)["id"], None
        try:
            call = read_call(body, model, settings)
            pieces = admission.pieces(lambda left: _start(model, call, settings, left))
            if not body.stream:
                generation = await _unless_gone(request, _end_of(pieces, call))
                _audit(name, call, generation)
                return JSONResponse(form.whole(generation, report_of(generation, call.highlights())))
            first = await _unless_gone(request, anext(pieces))  # what fails so early still has its own status
        except _Gone:
            _audit(name, call, "client gone")
            return Response(status_code=499)
        except Exception as error:
            _audit(name, call, type(error).__name__)
            raise
        usage = bool(body.stream_options and body.stream_options.include_usage)
        events = _events(name, form, call, first, pieces, usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    return app


def _start(model: SteeredModel, call: Call, settings: ServerSettings, left: float) -> TextStream[Generation]:
    return model.stream(call.tokens(model, settings), timeout=left, **call.options)


async def _end_of(pieces: AsyncIterator[str | Generation], call: Call) -> Generation:
    last: Any = None
    async with aclosing(pieces) as read:  # type: ignore[type-var]
        async for piece in read:
            last = piece
    return _first_call_only(last, call)


def _first_call_only(generation: Generation, call: Call) -> Generation:
    if call.one_call and len(generation.tool_calls) > 1:
        return replace(generation, tool_calls=generation.tool_calls[:1])
    return generation


async def _events(
    name: str,
    form: Form,
    call: Call,
    first: str | Generation,
    pieces: AsyncIterator[str | Generation],
    usage: bool,
) -> AsyncIterator[bytes]:
    outcome: Any = "client gone"
    try:
        async with aclosing(pieces) as read:  # type: ignore[type-var]
            yield event(form.piece("", role=True))
            piece: Any = first
            while isinstance(piece, str):
                yield event(form.piece(piece))
                piece = await anext(read)
            outcome = _first_call_only(piece, call)
        report = report_of(outcome, call.highlights())
        for chunk in form.last(outcome, report, with_usage=usage):
            yield event(chunk)
        yield b"data: [DONE]\n\n"
    except Exception as error:
        outcome = type(error).__name__
        yield event(error_body(error))
    finally:
        _audit(name, call, outcome)


async def _unless_gone(request: Request, work: Any) -> Any:
    """The result of the work; it is cancelled when the client goes away."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise _Gone
    finally:
        for one in (task, gone):
            one.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _audit(name: str, call: Call | None, outcome: Generation | str) -> None:
    """One line a request: what was marked and edited, and no text."""
    if not log.isEnabledFor(logging.INFO):
        return
    line: dict[str, Any] = {"request": name, "highlights": call.highlights() if call else []}
    if isinstance(outcome, Generation):
        report = outcome.report
        fields = ("method", "gain", "bank", "tokens_marked", "tokens_edited")
        line |= {key: getattr(report, key) for key in fields}
        line |= {"prompt_tokens": outcome.prompt_tokens, "completion_tokens": outcome.completion_tokens}
    line["outcome"] = outcome.finish_reason if isinstance(outcome, Generation) else outcome
    log.info("%s", json.dumps(line))
