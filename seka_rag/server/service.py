"""One model behind the routes: requests are read, admitted, generated and answered."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from seka_rag.errors import SekaError
from seka_rag.model.call import Call
from seka_rag.model.generation import Generation
from seka_rag.model.rows import checked_call
from seka_rag.model.steered import SteeredModel
from seka_rag.server.admission import Admission
from seka_rag.server.answers import Form, event, report_of
from seka_rag.server.bodies import ChatBody, CompletionBody, Shape, TokenizeBody
from seka_rag.server.errors import error_body, log
from seka_rag.server.parsing import parse
from seka_rag.server.reading import ModelRequest, read_request, read_tokenize
from seka_rag.server.settings import ServerSettings
from seka_rag.server.workers import Workers

B = TypeVar("B", bound=Shape)
T = TypeVar("T")


class _Gone(Exception):  # noqa: N818
    """The client closed its connection."""


class Service:
    """The routes of the API as methods, for one model."""

    def __init__(self, model: SteeredModel, settings: ServerSettings) -> None:
        self.model, self.settings = model, settings
        self.started = int(time.time())
        self.admission = Admission(model, settings)
        self.workers = Workers(2, settings.max_concurrent + settings.max_queue)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    def _card(self) -> dict[str, Any]:
        seka = {
            "bank": self.model.bank.digest if self.model.bank else None,
            "can_call_tools": self.model.can_call_tools,
        }
        return {
            "id": self.model.name,
            "object": "model",
            "created": self.started,
            "owned_by": "seka-rag",
            "max_model_len": self.model.context_length,
            "seka": seka,
        }

    async def tokenize(self, request: Request) -> Response:
        deadline = time.monotonic() + self.settings.timeout
        raw, content_type = await _body(request)

        def work() -> bytes:
            body = parse(raw, content_type, TokenizeBody, self.settings)
            tokens = read_tokenize(body, self.model).tokens(self.model, self.settings)
            seka = {"weights": tokens.weights, "offsets": tokens.offsets}
            answer = {"count": len(tokens), "max_model_len": self.model.context_length, "tokens": tokens.ids}
            return json.dumps({**answer, "seka": seka}).encode()

        return Response(
            await self._unless_gone(request, self.workers.run(work, deadline)), media_type="application/json"
        )

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, ChatBody)

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, CompletionBody)

    async def _answer(self, request: Request, kind: type[ChatBody] | type[CompletionBody]) -> Response:
        deadline = time.monotonic() + self.settings.timeout
        form, read = Form(self.model.name, kind is ChatBody), _Read()
        name = form.head(chunk=False)["id"]
        try:
            self.admission.check()  # before the body is read: it would be refused
            raw, content_type = await _body(request)
            await self._unless_gone(
                request, self.workers.run(lambda: self._read(read, raw, content_type, kind), deadline)
            )
            body, call = read.body, read.call
            assert body is not None
            assert call is not None
            pieces = self.admission.pieces(call, deadline, stream=body.stream)
            if not body.stream:
                (generation,) = await self._unless_gone(request, _last(pieces))
                generation = _first_call_only(generation, read.request)
                _audit(name, read.request, generation)
                return JSONResponse(form.whole(generation, report_of(generation, read.highlights())))
            first = await self._unless_gone(request, anext(pieces))  # what fails so early still has its own status
        except _Gone:
            _audit(name, read.request, "client gone")
            return Response(status_code=499)
        except Exception as error:
            if isinstance(error, SekaError) and error.field is None and read.request is not None:
                error.field = read.request.field_of(error)
            _audit(name, read.request, type(error).__name__)
            raise
        events = _events(name, form, read, first, pieces, body.stream_options.include_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    def _read(self, read: _Read, raw: bytes, content_type: str, kind: type[ChatBody] | type[CompletionBody]) -> None:
        """In a thread: everything up to the generation."""
        read.body = parse(raw, content_type, kind, self.settings)
        read.request = read_request(read.body, self.model, self.settings)
        tokens = read.request.tokens(self.model, self.settings)
        read.call = checked_call(self.model, tokens, **read.request.options)

    async def _unless_gone(self, request: Request, work: Any) -> Any:
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


class _Read:
    """What has been read of a request so far."""

    body: ChatBody | CompletionBody | None = None
    request: ModelRequest | None = None
    call: Call | None = None

    def highlights(self) -> list[dict[str, Any]]:
        return self.request.highlights() if self.request else []


async def _body(request: Request) -> tuple[bytes, str]:
    return await request.body(), request.headers.get("content-type", "")


async def _last(pieces: AsyncIterator[str | list[Generation]]) -> list[Generation]:
    last: Any = None
    async with aclosing(pieces) as read:  # type: ignore[type-var]
        async for piece in read:
            last = piece
    return last


def _first_call_only(generation: Generation, request: ModelRequest | None) -> Generation:
    if request is not None and request.one_call and len(generation.tool_calls) > 1:
        return replace(generation, tool_calls=generation.tool_calls[:1])
    return generation


async def _events(
    name: str,
    form: Form,
    read: _Read,
    first: str | list[Generation],
    pieces: AsyncIterator[str | list[Generation]],
    usage: bool,
) -> AsyncIterator[bytes]:
    outcome: Any = "client gone"
    try:
        async with aclosing(pieces) as following:  # type: ignore[type-var]
            yield event(form.piece("", role=True))
            piece: Any = first
            while isinstance(piece, str):
                yield event(form.piece(piece))
                piece = await anext(following)
            outcome = _first_call_only(piece[0], read.request)
        report = report_of(outcome, read.highlights())
        for chunk in form.last(outcome, report, with_usage=usage):
            yield event(chunk)
        yield b"data: [DONE]\n\n"
    except Exception as error:
        outcome = type(error).__name__
        yield event(error_body(error))
    finally:
        _audit(name, read.request, outcome)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _audit(name: str, request: ModelRequest | None, outcome: Generation | str) -> None:
    """One line a request: what was marked and edited, and no text."""
    if not log.isEnabledFor(logging.INFO):
        return
    line: dict[str, Any] = {"request": name, "highlights": request.highlights() if request else []}
    if isinstance(outcome, Generation):
        report = outcome.report
        fields = ("method", "gain", "bank", "tokens_marked", "tokens_edited")
        line |= {key: getattr(report, key) for key in fields}
        line |= {"prompt_tokens": outcome.prompt_tokens, "completion_tokens": outcome.completion_tokens}
    line["outcome"] = outcome.finish_reason if isinstance(outcome, Generation) else outcome
    log.info("%s", json.dumps(line))
