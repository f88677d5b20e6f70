"""RemoteModel: what SteeredModel does, by a server of ours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from seka_rag.errors import MissingExtraError, RemoteError
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.model.citations import Citation, Excerpt
from seka_rag.model.generation import Generation
from seka_rag.model.stream import TextStream
from seka_rag.server.client.wire import (
    OPTIONS,
    chat_body,
    citations_body,
    joined,
    prompt_body,
    read_answer,
    read_citations,
)
from seka_rag.text.plain import ReadOnlyJson
from seka_rag.text.prompt import Prompt
from seka_rag.text.toolcalls import Tool

_CHAT, _COMPLETE, _CITE = "/v1/chat/completions", "/v1/completions", "/v1/citations"
_AT_ONCE = 8  # of the prompts of one list


class RemoteModel:
    """A model behind ``seka-rag serve``, used like a SteeredModel. Highlights are sent as character offsets.

    Calls take these options, as ``SteeredModel.generate`` has them: ``steering``, ``max_new_tokens``, ``stop``, ``seed``,
    ``timeout``, ``json_schema``, ``tools``, ``tool_choice``, ``strict``, ``temperature``, ``top_p``, ``top_k``, ``min_p``,
    ``repetition_penalty`` and ``num_return_sequences``; conversations take ``template`` as well. Errors are of the classes
    that a local model raises; their ``field`` says where the request was wrong.

    Args:
        base_url: of the server, as ``http://host:8000/v1``.
        model: the name that it serves; by default whatever it serves.
        api_key: if it wants one.
        timeout: seconds for an answer, if a call does not say.
        max_retries: how often a request is repeated if the server was not reached or is busy; it waits as long as the server
            says.

    Raises:
        SettingError: an empty key.
        MissingExtraError: httpx or tenacity is not installed.
        RemoteError: by calls, if the server cannot be reached, fails, or is none of ours.
        AccessError: by calls, for a missing or wrong key.
        BusyError: by calls, if the server has too many requests.
    """

    OPTIONS = OPTIONS

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 600.0,
        max_retries: int = 2,
    ) -> None:
        try:
            from seka_rag.server.client.http import Server  # here, since it needs the extra
        except ImportError as error:
            raise MissingExtraError(error.name or "httpx", "server") from error
        self.base_url, self.model = base_url, model
        self._server = Server(base_url, api_key, timeout, max_retries)
        self._card: dict[str, Any] | None = None
        self._name = model

    def __repr__(self) -> str:
        return f"RemoteModel({self.base_url!r}, model={self.model!r})"

    # --- the server's description of its model

    @property
    def card(self) -> dict[str, Any]:
        """The server's description of its model; requested once."""
        if self._card is None:
            models = self._server.send("/v1/models", None).get("data") or [{}]
            if not {"id", "max_model_len", "seka"} <= set(models[0]):
                raise RemoteError(f"{self.base_url} does not describe its model as seka-rag's server does")
            self._card = models[0]
        return self._card

    @property
    def name(self) -> str:
        return self._name or str(self.card["id"])

    @property
    def context_length(self) -> int | None:
        """Most tokens of prompt and answer together, or None if the model does not say."""
        length: int | None = self.card["max_model_len"]
        return length

    @property
    def can_chat(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self.card["seka"].get("can_chat", True))

    @property
    def can_call_tools(self) -> bool:
        """Whether the chat template writes tool calls in a form that is known to the server."""
        return bool(self.card["seka"]["can_call_tools"])

    @property
    def can_cite(self) -> bool:
        """Whether the server tells what an answer rests on."""
        return bool(self.card["seka"].get("can_cite", False))

    # --- prompts

    def generate(self, prompt: Prompt | str | Sequence[Prompt | str], **options: object) -> Any:
        """Continue a prompt, or several: a Generation, or a list of them."""
        if isinstance(prompt, str) or not isinstance(prompt, Sequence):
            return _unwrapped(self._ask(_COMPLETE, prompt_body(prompt, options), options), options)
        bodies = [prompt_body(p, options) for p in prompt]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = pool.map(lambda body: self._ask(_COMPLETE, body, options), bodies)
            return [generation for several in answers for generation in several]

    async def agenerate(self, prompt: Prompt | str | Sequence[Prompt | str], **options: object) -> Any:
        """``generate`` without blocking the event loop; cancelling the task ends the generation."""
        if isinstance(prompt, str) or not isinstance(prompt, Sequence):
            return _unwrapped(await self._aask(_COMPLETE, prompt_body(prompt, options), options), options)
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(body: dict[str, object]) -> list[Generation]:
            async with limit:
                return await self._aask(_COMPLETE, body, options)

        answers = await asyncio.gather(*(one(prompt_body(p, options)) for p in prompt))
        return [generation for several in answers for generation in several]

    def stream(self, prompt: Prompt | str, **options: object) -> TextStream[Generation]:
        """The answer in pieces; leaving the loop early, or ``close()``, ends the generation on the server."""
        return self._stream(_COMPLETE, prompt_body(prompt, options), options)

    def astream(self, prompt: Prompt | str, **options: object) -> AsyncIterator[str]:
        """``stream`` for ``async for``."""
        return self.stream(prompt, **options).__aiter__()

    # --- conversations

    def chat(
        self, messages: Sequence[ReadOnlyJson], *, template: ReadOnlyJson | None = None, **options: object
    ) -> Generation:
        """Answer a conversation, as ``SteeredModel.chat``. ``template`` may hold what the model's template reads."""
        return self._ask(_CHAT, chat_body(messages, options, template), options)[0]

    async def achat(
        self, messages: Sequence[ReadOnlyJson], *, template: ReadOnlyJson | None = None, **options: object
    ) -> Generation:
        """``chat`` without blocking the event loop."""
        return (await self._aask(_CHAT, chat_body(messages, options, template), options))[0]

    def stream_chat(
        self, messages: Sequence[ReadOnlyJson], *, template: ReadOnlyJson | None = None, **options: object
    ) -> TextStream[Generation]:
        """``chat`` in pieces; see ``stream``."""
        return self._stream(_CHAT, chat_body(messages, options, template), options)

    # --- citations

    def cite(
        self,
        prompt: Prompt | str | Sequence[ReadOnlyJson],
        answer: str,
        excerpts: Sequence[Excerpt],
        *,
        template: ReadOnlyJson | None = None,
    ) -> tuple[Citation, ...]:
        """Which passages each sentence of an answer rests on, as ``seka_rag.model.citations.cite`` says it here."""
        if not excerpts:
            return ()
        body = citations_body(prompt, answer, excerpts, template or {})
        return read_citations(self._server.send(_CITE, self._named(body)), excerpts, url=self.base_url)

    # --- tokens

    def tokenize(self, prompt: Prompt | str) -> TokenizedPrompt:
        """A prompt as the server's tokens, with their highlights."""
        return self._tokens(prompt_body(prompt, {}))

    def tokenize_chat(
        self, messages: Sequence[ReadOnlyJson], *, tools: Sequence[Tool] | None = None, **template: object
    ) -> TokenizedPrompt:
        """A conversation as the server's tokens, through its chat template."""
        return self._tokens(chat_body(messages, {}, template) | ({"tools": list(tools)} if tools else {}))

    def _tokens(self, body: dict[str, object]) -> TokenizedPrompt:
        answer = self._server.send("/tokenize", self._named(body))
        offsets = [(start, end) for start, end in answer["seka"]["offsets"]]
        return TokenizedPrompt(answer["tokens"], answer["seka"]["weights"], offsets)

    # --- one request

    def _named(self, body: dict[str, object]) -> dict[str, object]:
        return body if self.model is None else {"model": self.model, **body}

    def _ask(self, path: str, body: dict[str, object], options: Mapping[str, Any]) -> list[Generation]:
        return self._read(self._server.send(path, self._named(body), options.get("timeout")))

    async def _aask(self, path: str, body: dict[str, object], options: Mapping[str, Any]) -> list[Generation]:
        return self._read(await self._server.asend(path, self._named(body), options.get("timeout")))

    def _stream(self, path: str, body: dict[str, object], options: Mapping[str, Any]) -> TextStream[Generation]:
        sent = self._named({**body, "stream": True, "stream_options": {"include_usage": True}})

        def work(emit: Callable[[str], None], cancel: threading.Event) -> Any:
            chunks = self._server.stream(path, sent, options.get("timeout"), emit, cancel)
            return None if cancel.is_set() and not chunks else self._read(joined(chunks))[0]

        return TextStream(work)

    def _read(self, answer: Mapping[str, Any]) -> list[Generation]:
        generations = read_answer(answer, url=self.base_url)
        self._name = self._name or answer.get("model")
        return generations


def _unwrapped(generations: list[Generation], options: Mapping[str, Any]) -> Any:
    """As ``SteeredModel.generate`` returns them: a list where several answers were asked for."""
    return generations if (options.get("num_return_sequences") or 1) > 1 else generations[0]
