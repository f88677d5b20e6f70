"""Routes in vLLM's own API server, under ``/v1/seka``: highlights as characters, reports beside the answers.

They are those of ``seka-rag serve`` (``/v1/models``, ``/v1/completions``, ``/v1/chat/completions``, ``/tokenize``), so that
its clients work: ``ChatSeka(base_url="http://localhost:8000/v1/seka")``. vLLM loads them where ``VLLM_PLUGINS`` names
``seka``, and asks for its key (``--api-key``) in all that begins with ``/v1``.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from vllm.exceptions import VLLMClientError, VLLMValidationError

from seka_rag.errors import LimitError, RequestError, SekaError
from seka_rag.model.generation import Generation
from seka_rag.server.answers import Completions, report_of
from seka_rag.server.bodies import ChatBody, CompletionBody, TokenizeBody
from seka_rag.server.errors import ClientGone, at_field, error_body, status_of
from seka_rag.server.model_request import ModelRequest
from seka_rag.server.parsing import parse
from seka_rag.server.reading import read_request, read_tokenize
from seka_rag.server.settings import ServerSettings
from seka_rag.server.streaming import EventStream, unless_gone
from seka_vllm.patching import around
from seka_vllm.profiles import load_profiles
from seka_vllm.served import Served
from seka_vllm.settings import KEY, engine_settings

_PREFIX = "/v1/seka"


class SekaRoutes:
    """What vLLM makes of the entry point, once in its API server."""

    name = "seka"
    required_tasks = ("generate",)

    def attach_router(self, app: Any) -> None:
        refuse_beams()
        app.add_api_route(f"{_PREFIX}/v1/models", self.models, methods=["GET"])
        app.add_api_route(f"{_PREFIX}/v1/completions", self.completions, methods=["POST"])
        app.add_api_route(f"{_PREFIX}/v1/chat/completions", self.chat, methods=["POST"])
        app.add_api_route(f"{_PREFIX}/tokenize", self.tokenize, methods=["POST"])

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        settings = engine_settings(engine_client.vllm_config)
        name = (args.served_model_name or [args.model])[0]
        banks = {} if settings is None else load_profiles(settings)
        self.engine = engine_client
        self.settings = ServerSettings(served_name=name)
        self.served = Served.of(name, engine_client.vllm_config.model_config, engine_client.get_tokenizer(), banks)

    async def models(self) -> Response:
        served = self.served
        bank = next((profile.bank.digest for profile in served.banks.values()), None)
        card = {
            "id": served.name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "seka-rag",
            "max_model_len": served.context_length,
            "seka": {"bank": bank, "can_chat": served.can_chat, "can_call_tools": False},
        }
        return JSONResponse({"object": "list", "data": [card]})

    async def tokenize(self, request: Request) -> Response:
        def read(raw: bytes, content_type: str) -> dict[str, object]:
            body = parse(raw, content_type, TokenizeBody, self.settings)
            model: Any = self.served  # has what the readers use of a SteeredModel
            tokens = read_tokenize(body, model, self.settings).tokens(model, self.settings)
            about = {"weights": tokens.weights, "offsets": tokens.offsets}
            return {
                "count": len(tokens),
                "max_model_len": self.served.context_length,
                "tokens": tokens.ids,
                "seka": about,
            }

        try:
            return JSONResponse(await self._read(request, read))
        except SekaError as error:
            return JSONResponse(error_body(error), status_of(error))

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, CompletionBody)

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, ChatBody)

    async def _read(self, request: Request, read: Any) -> Any:
        raw = await request.body()
        if len(raw) > self.settings.max_body:
            raise LimitError(f"the request has {len(raw)} bytes; this server takes {self.settings.max_body}")
        return await asyncio.to_thread(read, raw, request.headers.get("content-type", ""))

    async def _answer(self, request: Request, kind: type[ChatBody] | type[CompletionBody]) -> Response:
        try:
            work = await self._read(request, lambda *given: _Work(self.served, self.settings, kind, *given))
            if not work.request.stream:
                return JSONResponse(await unless_gone(request, work.whole(self.engine)))
            events = work.events(self.engine)
            first = await unless_gone(request, anext(events))  # what fails so early has its own status in a stream too
        except ClientGone as gone:
            return JSONResponse(error_body(gone), gone.status_code)
        except (SekaError, VLLMClientError) as error:
            known = _known(error)
            return JSONResponse(error_body(known), status_of(known))
        return EventStream(_from(first, events), _nothing)


def refuse_beams() -> None:
    """Let vLLM's own routes refuse beam search with highlights, which it would leave out."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    for kind in (ChatCompletionRequest, CompletionRequest):

        @around(kind, "to_beam_search_params")
        def to_beam_search_params(original: Any, self: Any, *args: object, **kwargs: object) -> Any:
            if any(name.startswith(f"{KEY}_") for name in self.vllm_xargs or ()):
                raise VLLMValidationError("beam search is not steered", parameter="use_beam_search")
            return original(self, *args, **kwargs)


def _known(error: Exception) -> SekaError:
    """An error of a request as one of ours, whose message the client may read."""
    return error if isinstance(error, SekaError) else RequestError(str(error))


async def _from(first: bytes, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async with aclosing(events):
        async for event in events:
            yield event


def _nothing() -> None: ...


class _Work:
    """One request, read and checked, in a thread of its own."""

    def __init__(self, served: Served, settings: ServerSettings, kind: Any, raw: bytes, content_type: str) -> None:
        from vllm.sampling_params import RequestOutputKind

        body = parse(raw, content_type, kind, settings)
        self.served = served
        model: Any = served  # has what the readers use of a SteeredModel
        self.request: ModelRequest = read_request(body, model, settings)
        if self.request.top is not None:
            with at_field("logprobs"):
                raise RequestError("logprobs: these routes give none; ask vLLM's own, with token positions")
        self.form = Completions(served.name, kind is ChatBody, self.request.choices, self.request.with_usage)
        self.tokens = self.request.tokens(model, settings)
        self.in_pieces = self.request.stream and self.request.choices == 1
        output = RequestOutputKind.DELTA if self.in_pieces else RequestOutputKind.FINAL_ONLY
        self.params = served.params(self.tokens, self.request.options, self.request.choices, output_kind=output)

    async def outputs(self, engine: Any) -> AsyncGenerator[Any, None]:
        prompt, name = {"prompt_token_ids": self.tokens.ids}, f"{self.form.id}-{secrets.token_hex(4)}"
        probe = self.served.probe(self.params)
        if probe is not None:
            async with aclosing(engine.generate(prompt, probe, f"{name}-probe")) as probed:
                async for output in probed:
                    last = output
            self.served.route(self.params, last)
        async with aclosing(engine.generate(prompt, self.params, name)) as outputs:
            async for output in outputs:
                yield output

    async def whole(self, engine: Any) -> dict[str, object]:
        """All answers, when they are ready."""
        answers = await self._answers(engine)
        return self.form.whole(answers, report_of(answers, self.request.highlights()), None)

    async def _answers(self, engine: Any) -> list[Generation]:
        async with aclosing(self.outputs(engine)) as outputs:
            async for output in outputs:
                last = output
        return self.served.answers(self.tokens, self.request.options, last)

    async def events(self, engine: Any) -> AsyncGenerator[bytes, None]:
        """The answer in pieces, or several answers at the end; leaving early ends them. What fails before is raised."""
        text, count, beside, reason, begun = "", 0, None, "stop", False
        try:
            if not self.in_pieces:
                answers, begun = await self._answers(engine), True
                for event in self.form.begin():
                    yield event
                report = report_of(answers, self.request.highlights())
                for event in self.form.end(answers, report, None, streamed=False):
                    yield event
                return
            async with aclosing(self.outputs(engine)) as outputs:
                async for output in outputs:
                    if not begun:
                        begun = True
                        for event in self.form.begin():
                            yield event
                    (done,) = output.outputs
                    beside = output.kv_transfer_params or beside
                    count += sum(token not in self.served.ends for token in done.token_ids)
                    reason = done.finish_reason or reason
                    text += done.text
                    if done.text:
                        for event in self.form.piece(done.text, None):
                            yield event
            steered = self.served.report(self.tokens, self.request.options, beside)
            finish: Any = "length" if reason == "length" else "stop"
            answers = [Generation(text, steered, len(self.tokens), count, finish)]
            for event in self.form.end(answers, report_of(answers, self.request.highlights()), None, streamed=True):
                yield event
        except (SekaError, VLLMClientError) as error:
            if not begun:
                raise
            for event in self.form.failed(_known(error)):
                yield event
