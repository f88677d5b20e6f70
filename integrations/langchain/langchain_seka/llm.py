"""A completion model for LangChain that follows what its chain retrieved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, BaseCallbackManager, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.outputs import Generation as LangChainGeneration
from langchain_core.outputs import GenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from pydantic import PrivateAttr

from langchain_seka.capture import CAPTURE, aside, parent_in
from langchain_seka.highlights import Highlights, for_text
from langchain_seka.settings import Request, SekaSettings
from seka_rag import Generation, Prompt, SekaError


class SekaLLM(SekaSettings, BaseLLM):
    """``ChatSeka`` for plain text: the prompt goes to the model as it is, without a chat template.

    Passages that the chain retrieved are highlighted in the same way; the report is in the ``generation_info`` of
    each generation. Prompts of one call are answered one after the other, so that each has a report of its own.
    """

    # The options and highlights of one call: LangChain's cache of completion models looks at the model's own settings
    # only, so each call runs on a copy of the model that knows them.
    _call: dict[str, Any] | None = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "seka"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        params = super()._identifying_params
        return params if self._call is None else {**params, "call": self._call}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._tracing_params(super()._get_ls_params(stop=stop, **kwargs), stop)

    # --- one call

    def _highlights(self, prompt: str, parent: UUID | None, call: dict[str, Any]) -> Highlights:
        if not self._wants_highlights(call):
            return Highlights()
        return for_text(prompt, CAPTURE.evidence(parent), self._call_highlighter(call))

    def _request(self, prompt: str, stop: list[str] | None, parent: UUID | None, call: dict[str, Any]) -> Request:
        options = self._generate_options(stop, call)
        if options.get("tools"):
            raise SekaError("SekaLLM has no chat template to tell the model of tools: use ChatSeka")
        highlights = call.get("seka_highlights")
        if highlights is None:
            highlights = self._highlights(prompt, parent, call)
        tokens = self.engine.tokenize(Prompt(prompt, tuple(span for _, span in highlights.spans)))
        return Request(self.engine, tokens, options, highlights)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        generations = []
        for prompt in prompts:
            request = self._request(prompt, stop, _parent(run_manager), kwargs)
            generations.append([self._generation(request.run(), request)])
        return LLMResult(generations=generations)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        generations = []
        for prompt in prompts:
            request = await asyncio.to_thread(self._request, prompt, stop, _parent(run_manager), kwargs)
            generations.append([self._generation(await request.arun(), request)])
        return LLMResult(generations=generations)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        request = self._request(prompt, stop, _parent(run_manager), kwargs)
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
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        request = await asyncio.to_thread(self._request, prompt, stop, _parent(run_manager), kwargs)
        stream = request.stream()
        async with aclosing(aiter(stream)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                chunk = GenerationChunk(text=piece)
                if run_manager:
                    await run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
        yield GenerationChunk(text="", generation_info=self._info(stream.result, request))

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[str]:
        """The answer in pieces; leaving the loop ends the generation."""
        async with aclosing(super().astream(input, config, **kwargs)) as pieces:
            with aside():  # the run begins with the first piece
                first = await anext(pieces, "")
            yield first
            async for piece in pieces:
                yield piece

    def _generation(self, generation: Generation, request: Request) -> LangChainGeneration:
        return LangChainGeneration(text=generation.text, generation_info=self._info(generation, request))

    def _info(self, generation: Generation, request: Request) -> dict[str, Any]:
        usage = {
            "input_tokens": generation.prompt_tokens,
            "output_tokens": generation.completion_tokens,
            "total_tokens": generation.prompt_tokens + generation.completion_tokens,
        }
        return {**self._metadata(generation, request), "usage": usage}

    # --- several prompts: each belongs to a chain of its own, and only here it is known to which

    def generate(
        self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """Answer several prompts, each with its own callbacks if ``callbacks`` is a list of such."""
        calls = _one_by_one(prompts, callbacks, kwargs)
        return _joined(
            [
                BaseLLM.generate(self._for_call(h, kw), [prompt], stop, own, **kw, seka_highlights=h)
                for prompt, own, parent, kw in calls
                for h in [self._highlights(prompt, parent, kw)]
            ]
        )

    async def agenerate(
        self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """``generate`` without blocking the event loop."""
        results = []
        for prompt, own, parent, kw in _one_by_one(prompts, callbacks, kwargs):
            h = await asyncio.to_thread(self._highlights, prompt, parent, kw)
            with aside():
                result = await BaseLLM.agenerate(self._for_call(h, kw), [prompt], stop, own, **kw, seka_highlights=h)
            results.append(result)
        return _joined(results)

    def _for_call(self, highlights: Highlights, options: dict[str, Any]) -> SekaLLM:
        call = self.model_copy()
        call._call = {
            "highlights": highlights.report(),
            **{key: repr(value) for key, value in options.items() if key not in _TRACING},
        }
        return call


def _parent(run_manager: Any) -> UUID | None:
    return None if run_manager is None else run_manager.parent_run_id


#: Arguments of ``generate`` for tracing; with a list of callbacks, each is a list too.
_TRACING = ("tags", "metadata", "run_name", "run_id")


def _one_by_one(
    prompts: list[str], callbacks: Any, options: dict[str, Any]
) -> list[tuple[str, Any, UUID | None, dict[str, Any]]]:
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
        calls.append((prompt, [own] if several else own, parent_in(own), kw))
    return calls


def _joined(results: list[LLMResult]) -> LLMResult:
    return LLMResult(
        generations=[g for result in results for g in result.generations],
        run=[run for result in results for run in result.run or ()] or None,
    )
