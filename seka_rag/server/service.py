"""One model behind the routes: requests are read, admitted, generated and answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from seka_rag.errors import LimitError, ModelNotFoundError, SekaError
from seka_rag.hf.output import TokenScores
from seka_rag.model.call import Call
from seka_rag.model.citations import Citation, Citing
from seka_rag.model.generation import Generation
from seka_rag.model.rows import checked_call, end_ids
from seka_rag.model.steered import SteeredModel
from seka_rag.server.admission import Admission
from seka_rag.server.answers import AnswerFormat, Completions, report_of
from seka_rag.server.bodies import ChatBody, CitationsBody, CompletionBody, ResponsesBody, TokenizeBody
from seka_rag.server.errors import ClientGone, at_field, kind_of
from seka_rag.server.exchange import Exchange
from seka_rag.server.keys import Keys
from seka_rag.server.metrics import CONTENT_TYPE, Metrics
from seka_rag.server.model_request import ModelRequest
from seka_rag.server.parsing import parse
from seka_rag.server.reading import read_excerpts, read_request, read_tokenize
from seka_rag.server.responses import Responses
from seka_rag.server.scores import Scores
from seka_rag.server.settings import ServerSettings
from seka_rag.server.streaming import EventStream, unless_gone
from seka_rag.server.workers import Workers

Body = ChatBody | CompletionBody | ResponsesBody
_READERS = 2  # threads that read requests: their work is mostly Python, of which one runs at a time


@dataclass(frozen=True)
class Work:
    """A request that is ready to be generated."""

    request: ModelRequest
    call: Call
    form: AnswerFormat
    scores: Scores | None

    def answers(self, exchange: Exchange, generations: list[Generation]) -> list[Generation]:
        """The answers as they were asked for; the exchange takes note of what was generated."""
        exchange.generations = generations
        answers = generations
        if self.request.one_call:
            answers = [replace(a, tool_calls=a.tool_calls[:1]) for a in answers]
        # without sampling, all would be the same: it was generated once
        return answers if len(answers) == self.request.choices else answers * self.request.choices


class Service:
    """The routes of the API as methods, for one model."""

    def __init__(self, model: SteeredModel, settings: ServerSettings) -> None:
        self.model, self.settings = model, settings
        self.name = settings.served_name or model.name
        self.keys = Keys(settings.api_key, settings.keys_file)
        self.started = int(time.time())
        self.admission = Admission(model, settings)
        self.workers = Workers(_READERS, settings.max_concurrent + settings.max_queue)
        self.citing = Workers(1, settings.max_queue)
        self.metrics = Metrics(self.admission)
        self.draining = False

    # --- its end

    def drain(self) -> None:
        """Take no new request; those that were admitted are answered."""
        self.draining = True

    def stop(self) -> None:
        """End what still runs or waits, with an error."""
        self.drain()
        self.admission.stop()
        self.workers.close()
        self.citing.close()

    @property
    def idle(self) -> bool:
        """Whether no generation runs."""
        return not self.admission.running

    # --- about the server

    async def alive(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        status = {"status": "draining" if self.draining else "ready"}
        return JSONResponse(status, 503 if self.draining else 200)

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": version("seka-rag")})

    async def figures(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def one_model(self, request: Request) -> Response:
        if request.path_params["name"] != self.name:
            with at_field("model"):
                raise ModelNotFoundError(f"this server has no model of that name: it serves {self.name!r}")
        return JSONResponse(self._card())

    def _card(self) -> dict[str, object]:
        bank = self.model.bank.digest if self.model.bank else None
        return {
            "id": self.name,
            "object": "model",
            "created": self.started,
            "owned_by": "seka-rag",
            "max_model_len": self.model.context_length,
            "seka": {
                "bank": bank,
                "can_chat": self.model.can_chat,
                "can_call_tools": self.model.can_call_tools,
                "can_cite": True,
            },
        }

    # --- prompts

    async def tokenize(self, request: Request) -> Response:
        def work(raw: bytes, content_type: str) -> bytes:
            body = parse(raw, content_type, TokenizeBody, self.settings)
            tokens = read_tokenize(body, self.model, self.settings).tokens(self.model, self.settings)
            seka = {"weights": tokens.weights, "offsets": tokens.offsets}
            answer = {"count": len(tokens), "max_model_len": self.model.context_length, "tokens": tokens.ids}
            return json.dumps({**answer, "seka": seka}).encode()

        return Response(await self._read(request, work), media_type="application/json")

    async def citations(self, request: Request) -> Response:
        """Which excerpts an answer rests on: a pass of the model, one at a time beside the generations."""

        def work(raw: bytes, content_type: str) -> Callable[[], bytes]:
            body = parse(raw, content_type, CitationsBody, self.settings)
            read = read_tokenize(body, self.model, self.settings)
            read.check_template(self.model)
            excerpts = read_excerpts(body, read)
            tools = {"tools": read.options["tools"]} if "tools" in read.options else {}
            with at_field(read.prompt_field):
                template = {**read.template, **tools}
                citing = Citing.of(self.model, read.prompt, body.answer, excerpts, template=template)
            read.checked(citing.tokens, self.settings)
            with at_field("answer"):
                new, most = len(citing.reply), self.settings.max_new_tokens
                if new > most:
                    raise LimitError(f"the answer has {new} tokens: this server gives at most {most}")
            return lambda: json.dumps({"citations": [_cited(own) for own in citing.citations(self.model)]}).encode()

        ready = await self._read(request, work)
        self.citing.check()
        answer = await unless_gone(request, self.citing.run(ready, self._deadline(request)))
        return Response(answer, media_type="application/json")

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, ChatBody)

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, CompletionBody)

    async def responses(self, request: Request) -> Response:
        return await self._answer(request, ResponsesBody)

    async def _read(self, request: Request, work: Callable[[bytes, str], Any]) -> Any:
        """The result of reading the body in a thread, as ``work(body, content_type)``."""
        self.workers.check()  # before the body has come: it would be refused
        try:
            raw, content_type = await request.body(), request.headers.get("content-type", "")
        except ClientDisconnect:
            raise ClientGone from None
        return await unless_gone(request, self.workers.run(lambda: work(raw, content_type), self._deadline(request)))

    def _deadline(self, request: Request) -> float:
        exchange: Exchange = request.state.exchange
        return exchange.arrived + self.settings.timeout

    async def _answer(self, request: Request, kind: type[Body]) -> Response:
        exchange: Exchange = request.state.exchange
        self.admission.check()
        work: Work = await self._read(request, lambda *given: self._prepare(exchange, kind, *given))
        pieces_wanted = work.request.stream and work.request.choices == 1
        ticket = self.admission.ticket(work.call, self._deadline(request), stream=pieces_wanted)

        def left() -> None:
            self.admission.leave(ticket)
            exchange.ran(ticket.started, ticket.cancel.first_token, ticket.rows)
            if not exchange.generations and exchange.error is None:
                exchange.error = ClientGone.code

        try:
            pieces = self.admission.pieces(ticket)
            first: Any = await unless_gone(
                request, anext(pieces)
            )  # what fails so early has its own status in a stream too
            if work.request.stream:
                return EventStream(self._events(work, exchange, first, pieces), left)
        except BaseException as error:
            if isinstance(error, SekaError):
                error.field = error.field or work.request.field_of(error)
            left()
            raise
        answers = work.answers(exchange, first)
        left()
        return JSONResponse(work.form.whole(answers, report_of(answers, exchange.highlights), work.scores))

    def _prepare(self, exchange: Exchange, kind: type[Body], raw: bytes, content_type: str) -> Work:
        """In a thread: everything up to the generation."""
        body = parse(raw, content_type, kind, self.settings)
        form: AnswerFormat
        if isinstance(body, ResponsesBody):
            form = Responses(self.name, body)
        else:
            form = Completions(self.name, isinstance(body, ChatBody), body.n, body.stream_options.include_usage)
        exchange.answer = form.id
        request = read_request(body, self.model, self.settings)
        exchange.highlights = request.highlights()
        tokens = request.tokens(self.model, self.settings)
        recorded = None if request.top is None else TokenScores(request.top)
        options = {**request.options, **(recorded.options if recorded else {})}
        try:
            call = checked_call(self.model, tokens, **options)
            if request.choices > 1 and call.samples:
                call = checked_call(self.model, tokens, **options, num_return_sequences=request.choices)
        except SekaError as error:
            error.field = error.field or request.field_of(error)
            raise
        scores = None if recorded is None else Scores(recorded, self.model.tokenizer, end_ids(self.model))
        return Work(request, call, form, scores)

    async def _events(
        self,
        work: Work,
        exchange: Exchange,
        first: str | list[Generation],
        pieces: AsyncGenerator[str | list[Generation], None],
    ) -> AsyncGenerator[bytes, None]:
        form, piece, streamed = work.form, first, False
        try:
            async with aclosing(pieces) as following:
                for sent in form.begin():
                    yield sent
                while isinstance(piece, str):
                    streamed = True
                    for sent in form.piece(piece, work.scores):
                        yield sent
                    await asyncio.sleep(
                        0
                    )  # pieces may wait in a row; others come in between, and the client may be gone
                    piece = await anext(following)
            answers = work.answers(exchange, piece)
            for sent in form.end(answers, report_of(answers, exchange.highlights), work.scores, streamed=streamed):
                yield sent
        except Exception as error:
            exchange.error = kind_of(error)
            for sent in form.failed(error):
                yield sent


def _cited(own: Citation) -> dict[str, object]:
    place = {"answer_start": own.answer_start, "answer_end": own.answer_end}
    return {**place, "passage": own.passage, "excerpt": own.excerpt, "share": own.share}
