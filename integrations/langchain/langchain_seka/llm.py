"""A completion model for LangChain that follows what its chain retrieved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackManager,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseLLM, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.outputs import Generation as LangChainGeneration
from langchain_core.outputs import GenerationChunk, LLMResult
from langchain_core.prompt_values import PromptValue
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import RunnableConfig, ensure_config
from pydantic import Field, PrivateAttr

from langchain_seka.capture import aside
from langchain_seka.citations import in_text
from langchain_seka.handler import Origin, explicit, origin_in
from langchain_seka.highlights import for_text
from langchain_seka.marks import has_marks
from langchain_seka.settings import SekaSettings
from seka_rag import Generation, SekaError
from seka_rag.frameworks import Highlights, Request, no_highlighting, usage


class SekaLLM(SekaSettings, BaseLLM):
    """``ChatSeka`` for plain text: the prompt goes to the model as it is, without a chat template.

    Passages that the chain retrieved are highlighted in the same way; the report is in the ``generation_info`` of
    each generation. The prompts of one ``batch`` or ``generate`` run together, each with its own highlights and report.
    """

    batch_size: int = Field(default=8, ge=1)
    """Most prompts that run at once."""
    rate_limiter: BaseRateLimiter | None = Field(default=None, exclude=True)
    """Asked before each batch."""

    # The options and highlights of one call: LangChain's cache of completion models looks at the model's own settings
    # only, so each call runs on a copy of the model that knows them.
    _call: dict[str, Any] | None = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "seka"

    @property
    def _identifying_params(self) -> dict[str, object]:
        params = super()._identifying_params
        return params if self._call is None else {**params, "call": self._call}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: object) -> LangSmithParams:
        return self._tracing_params(super()._get_ls_params(stop=stop, **kwargs), stop)

    # --- one call

    def _convert_input(self, model_input: LanguageModelInput) -> PromptValue:
        value = super()._convert_input(model_input)
        if any(has_marks(message) for message in value.to_messages()):
            raise SekaError(
                "SekaLLM is given text, and the highlights of HighlightPrompt and mark_message stand on messages: use ChatSeka"
            )
        return value

    def _highlights(self, prompt: str, origin: Origin, call: dict[str, Any]) -> Highlights:
        return self._found([("text", prompt)], origin, call, partial(for_text, prompt), partial(in_text, prompt))

    def _request(self, prompt: str, stop: list[str] | None, origin: Origin, call: dict[str, Any]) -> Request:
        options = self._generate_options(stop, call)
        if options.get("template"):
            raise SekaError("SekaLLM applies no chat template, so chat_template_kwargs has no effect: use ChatSeka")
        if options.get("tools"):
            raise SekaError("SekaLLM has no chat template to tell the model of tools: use ChatSeka")
        highlights = call.get("seka_highlights")
        if highlights is None:
            highlights = self._highlights(prompt, origin, call)
        return Request(self.engine, highlights.prompts([prompt])[0], options, highlights)

    def _requests(
        self,
        prompts: list[str],
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None,
        call: dict[str, Any],
    ) -> Iterator[list[Request]]:
        """Requests in batches; each prompt has its own highlights."""
        given = call.get("seka_highlights") or [None] * len(prompts)
        for start in range(0, len(prompts), self.batch_size):
            yield [
                self._request(prompt, stop, _origin(run_manager), {**call, "seka_highlights": own})
                for prompt, own in list(zip(prompts, given, strict=True))[start : start + self.batch_size]
            ]

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> LLMResult:
        rows = []
        for batch in self._requests(prompts, stop, run_manager, kwargs):
            self._wait()
            with no_highlighting():  # what an open block marks is among the highlights already
                generations = self.engine.generate([r.prompt for r in batch], **batch[0].options)
            rows += self._rows(generations, batch)
        return LLMResult(generations=rows)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> LLMResult:
        rows = []
        batches = self._requests(prompts, stop, run_manager, kwargs)
        none: list[Request] = []
        while batch := await asyncio.to_thread(next, batches, none):
            await self._await_turn()
            with no_highlighting():
                generations = await self.engine.agenerate([r.prompt for r in batch], **batch[0].options)
            rows += await asyncio.to_thread(self._rows, generations, batch)
        return LLMResult(generations=rows)

    def _wait(self) -> None:
        if self.rate_limiter is not None:
            self.rate_limiter.acquire(blocking=True)

    async def _await_turn(self) -> None:
        if self.rate_limiter is not None:
            await self.rate_limiter.aacquire(blocking=True)

    def _rows(self, generations: list[Generation], batch: list[Request]) -> list[list[LangChainGeneration]]:
        times = len(generations) // len(batch)
        return [
            [self._generation(g, request) for g in generations[i * times : (i + 1) * times]]
            for i, request in enumerate(batch)
        ]

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> Iterator[GenerationChunk]:
        request = self._request(prompt, stop, _origin(run_manager), kwargs)
        self._wait()
        with request.stream() as stream:
            for piece in stream:
                chunk = GenerationChunk(text=piece)
                if run_manager:
                    run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
        yield GenerationChunk(text="", generation_info=self._info(stream.result, request))

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> AsyncIterator[GenerationChunk]:
        request = await asyncio.to_thread(self._request, prompt, stop, _origin(run_manager), kwargs)
        await self._await_turn()
        stream = await asyncio.to_thread(request.stream)
        async with aclosing(aiter(stream)) as pieces:  # type: ignore[type-var]  # it is a generator, and can be closed
            async for piece in pieces:
                chunk = GenerationChunk(text=piece)
                if run_manager:
                    await run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
        yield GenerationChunk(text="", generation_info=await asyncio.to_thread(self._info, stream.result, request))

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: object
    ) -> AsyncIterator[str]:
        """The answer in pieces; leaving the loop ends the generation."""
        config = ensure_config(config)
        with aside(config.get("callbacks")) as others:
            pieces = super().astream(input, {**config, "callbacks": others}, **kwargs)
            first = await anext(pieces, "")  # the run begins with the first piece
        async with aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    def _generation(self, generation: Generation, request: Request) -> LangChainGeneration:
        return LangChainGeneration(text=generation.text, generation_info=self._info(generation, request))

    def _info(self, generation: Generation, request: Request) -> dict[str, object]:
        counts = usage(generation, "input_tokens", "output_tokens")
        return {**self._metadata(generation, request, request.cite(generation)), "usage": counts}

    # --- several prompts: each belongs to a chain of its own, and only here it is known to which

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] = None,
        **kwargs: object,
    ) -> LLMResult:
        """Answer several prompts in batches, each with its own callbacks if ``callbacks`` is a list of such."""
        calls = _one_by_one(prompts, callbacks, kwargs)
        found = [self._highlights(prompt, origin, kw) for prompt, _, origin, kw in calls]
        if not self._caches():
            return BaseLLM.generate(self, prompts, stop, callbacks, **kwargs, seka_highlights=found)
        return _joined(
            [
                _told(origin, BaseLLM.generate(self._for_call(h, kw), [prompt], stop, own, **kw, seka_highlights=[h]))
                for (prompt, own, origin, kw), h in zip(calls, found, strict=True)
            ]
        )

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] = None,
        **kwargs: object,
    ) -> LLMResult:
        """``generate`` without blocking the event loop."""
        calls = _one_by_one(prompts, callbacks, kwargs)
        found = [await asyncio.to_thread(self._highlights, prompt, origin, kw) for prompt, _, origin, kw in calls]
        if not self._caches():
            with aside(callbacks) as others:
                return await BaseLLM.agenerate(self, prompts, stop, others, **kwargs, seka_highlights=found)
        results = []
        for (prompt, own, origin, kw), h in zip(calls, found, strict=True):
            model = self._for_call(h, kw)
            with aside(own) as others:
                result = await BaseLLM.agenerate(model, [prompt], stop, others, **kw, seka_highlights=[h])
            results.append(_told(origin, result))
        return _joined(results)

    def _caches(self) -> bool:
        """Whether answers are cached: then each prompt is a call of its own, for its highlights are part of the key."""
        return bool(self.cache) or (self.cache is None and get_llm_cache() is not None)

    def _for_call(self, highlights: Highlights, options: dict[str, object]) -> SekaLLM:
        call = self.model_copy()
        call._call = {
            "highlights": repr(highlights),  # with what may be cited
            **{key: repr(value) for key, value in options.items() if key not in _TRACING},
        }
        return call


def _origin(run_manager: AsyncCallbackManagerForLLMRun | CallbackManagerForLLMRun | None) -> Origin:
    return (None, None) if run_manager is None else (run_manager.parent_run_id, explicit(run_manager))


#: Arguments of ``generate`` for tracing; with a list of callbacks, each is a list too.
_TRACING = ("tags", "metadata", "run_name", "run_id")


def _one_by_one(
    prompts: list[str], callbacks: Callbacks | list[Callbacks], options: dict[str, object]
) -> list[tuple[str, Callbacks, Origin, dict[str, object]]]:
    """Each prompt with its callbacks, the run that it belongs to, and its options."""
    if not isinstance(prompts, list):
        raise ValueError(f"prompts is {type(prompts).__name__}: give a list of str")
    several = isinstance(callbacks, list) and bool(callbacks)
    several = several and (callbacks[0] is None or isinstance(callbacks[0], list | BaseCallbackManager))
    if several and len(callbacks) != len(prompts):
        raise ValueError("callbacks must be the same length as prompts")
    calls = []
    for i, prompt in enumerate(prompts):
        own = callbacks[i] if several else callbacks
        split = ("run_id", *_TRACING) if several else ("run_id",)
        kw = {k: [v[i]] if k in split and isinstance(v, list) else v for k, v in options.items()}
        calls.append((prompt, [own] if several else own, origin_in(own), kw))
    return calls


def _told(origin: Origin, result: LLMResult) -> LLMResult:
    """An answer from the cache has no run of which LangChain tells: the handler gets its report here."""
    if not result.run and origin[1] is not None:
        origin[1].collect(result)
    return result


def _joined(results: list[LLMResult]) -> LLMResult:
    return LLMResult(
        generations=[g for result in results for g in result.generations],
        run=[run for result in results for run in result.run or ()] or None,
    )
