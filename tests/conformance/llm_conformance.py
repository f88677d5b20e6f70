"""A conformance suite for LLMs of LlamaIndex, for any class: LlamaIndex publishes none.

It asks for what query engines, chat engines, agents and their users rely on. The file needs pytest and
llama-index-core only, so it can be copied beside another integration. With a model that answers anything at all:

    from llm_conformance import LLMConformance

    class TestMine(LLMConformance):
        def make(self, **settings):
            return MyLLM(model="tiny", **settings)

        def patch_generation(self, llm, monkeypatch, around):
            monkeypatch.setattr(llm._model, "generate", around(llm._model.generate))
"""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, ClassVar, Literal

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, ImageBlock, MessageRole
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.callbacks import CallbackManager, CBEventType, TokenCountingHandler
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import TextNode
from llama_index.core.tools import FunctionTool

#: Even a tiny model answers this with more than one token.
QUESTION = "Rewrite the text with they in place of she and he."
TEXTS = ("Maud lives in Lyon. She plays the tuba.", "Roland keeps a parrot.")
PROMPT = f"{TEXTS[0]}\n\n{QUESTION}"
MESSAGES = [ChatMessage("Be brief.", role=MessageRole.SYSTEM), ChatMessage(PROMPT)]
TEMPLATE = PromptTemplate("{context_str}\n{query_str}")
VALUES = {"context_str": TEXTS[0], "query_str": QUESTION}
METHODS = (
    "complete", "acomplete", "stream_complete", "astream_complete", "chat", "achat", "stream_chat", "astream_chat",
)  # fmt: skip
MODES = ("compact", "refine", "tree_summarize", "simple_summarize", "accumulate", "compact_accumulate")
#: Seconds after which a call that should have failed counts as hanging.
PATIENCE = 60.0


class City(BaseModel):
    """A city."""

    name: Literal["Lyon", "Oslo"]
    sure: bool


class BrokenError(Exception):
    """What a broken model raises here."""


class Where(BaseModel):
    """Arguments of the tool."""

    city: Literal["Lyon", "Oslo"]


def weather_tool() -> FunctionTool:
    """A tool that says what the weather is like in one of two cities."""
    return FunctionTool.from_defaults(
        lambda city: f"It rains in {city}.", name="weather", description="The weather in a city.", fn_schema=Where
    )


def responses(llm: LLM, method: str, **options: Any) -> list[Any]:
    """All responses of one of the eight methods, in a fresh event loop where it is asynchronous."""
    given: Any = MESSAGES if "chat" in method else PROMPT
    if not method.startswith("a"):
        result = getattr(llm, method)(given, **options)
        return list(result) if "stream" in method else [result]

    async def run() -> list[Any]:
        result = await getattr(llm, method)(given, **options)
        return [r async for r in result] if "stream" in method else [result]

    return asyncio.run(run())


def text_of(response: Any) -> str:
    return (response.message.content or "") if isinstance(response, ChatResponse) else response.text


def within(work: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The result of the work, or what it raised; fails if it hangs."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append((work(), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        pytest.fail(f"it hangs: no result and no error after {seconds:g} seconds")
    value, error = result[0]
    if error is not None:
        raise error
    return value


class _Events(BaseEventHandler):
    seen: list[str]

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.seen.append(event.class_name())


class _Callbacks(BaseCallbackHandler):
    """Counts starts and ends of LLM events."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.starts = self.ends = 0

    def on_event_start(self, event_type: Any, *args: Any, **kwargs: Any) -> str:
        self.starts += event_type == CBEventType.LLM
        return ""

    def on_event_end(self, event_type: Any, *args: Any, **kwargs: Any) -> None:
        self.ends += event_type == CBEventType.LLM

    def start_trace(self, trace_id: str | None = None) -> None:
        pass

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None:
        pass


class LLMConformance:
    """Inherit, say how the LLM is made, and let pytest collect it. All calls must be deterministic (greedy).

    Attributes:
        chat_model, reads_images: what the LLM is.
        stop_option, limit_option: names of a call's options for stop strings and for the most new tokens; the latter
            is also the name of the LLM's field.
    """

    chat_model: ClassVar[bool] = True
    reads_images: ClassVar[bool] = False
    stop_option: ClassVar[str] = "stop"
    limit_option: ClassVar[str] = "max_tokens"

    def make(self, **settings: Any) -> LLM:
        """A new LLM that answers with about 12 tokens at most; settings are fields that every LLM of LlamaIndex has."""
        raise NotImplementedError

    def patch_generation(self, llm: LLM, monkeypatch: pytest.MonkeyPatch, around: Callable[[Any], Any]) -> None:
        """Put ``around(f)`` in the place of the function f that generates, below the LLM."""
        raise NotImplementedError

    @pytest.fixture
    def llm(self) -> LLM:
        return self.make()

    # --- answers

    @pytest.mark.parametrize("method", METHODS)
    def test_answers_with_the_right_type(self, llm: LLM, method: str) -> None:
        found = responses(llm, method)
        assert found
        assert all(isinstance(r, ChatResponse if "chat" in method else CompletionResponse) for r in found)
        assert text_of(found[-1]).strip()
        if "chat" in method:
            assert found[-1].message.role == MessageRole.ASSISTANT

    @pytest.mark.parametrize("kind", ["complete", "chat"])
    def test_all_four_forms_give_the_same_text(self, llm: LLM, kind: str) -> None:
        texts = {m: text_of(responses(llm, m)[-1]) for m in (kind, f"a{kind}", f"stream_{kind}", f"astream_{kind}")}
        assert len(set(texts.values())) == 1, texts

    @pytest.mark.parametrize("method", [m for m in METHODS if "stream" in m])
    def test_streams_in_pieces_that_add_up(self, llm: LLM, method: str) -> None:
        found = responses(llm, method)
        assert len([r for r in found if r.delta]) > 1
        assert "".join(r.delta or "" for r in found) == text_of(found[-1])
        for before, after in pairwise(found):
            assert text_of(after).startswith(text_of(before))

    def test_predict_in_all_four_forms(self, llm: LLM) -> None:
        async def later() -> list[str]:
            streamed = [t async for t in await llm.astream(TEMPLATE, **VALUES)]
            return [await llm.apredict(TEMPLATE, **VALUES), "".join(streamed)]

        texts = [llm.predict(TEMPLATE, **VALUES), "".join(llm.stream(TEMPLATE, **VALUES)), *asyncio.run(later())]
        assert texts[0].strip()
        assert len(set(texts)) == 1, texts

    def test_metadata(self, llm: LLM) -> None:
        assert llm.metadata.context_window > 0
        assert llm.metadata.num_output > 0
        assert llm.metadata.model_name not in ("", "unknown")
        assert llm.metadata.is_chat_model == self.chat_model

    # --- options and usage

    @pytest.mark.parametrize("method", METHODS)
    def test_reports_usage(self, llm: LLM, method: str) -> None:
        last = responses(llm, method)[-1]
        usage = last.raw.get("usage", {}) if isinstance(last.raw, dict) else {}
        told = {**(usage if isinstance(usage, dict) else {}), **last.additional_kwargs}
        assert told.get("prompt_tokens", 0) > 0
        assert told.get("completion_tokens", 0) > 0

    @pytest.mark.parametrize("method", METHODS)
    def test_stop_of_a_call(self, llm: LLM, method: str) -> None:
        text = text_of(responses(llm, method)[-1])
        stop = text.strip()[-1]
        found = responses(llm, method, **{self.stop_option: [stop]})
        assert text_of(found[-1]) == text[: text.index(stop)]
        if "stream" in method:
            assert "".join(r.delta or "" for r in found) == text[: text.index(stop)]

    @pytest.mark.parametrize("method", METHODS)
    def test_limit_of_a_call(self, llm: LLM, method: str) -> None:
        text = text_of(responses(llm, method)[-1])
        short = text_of(responses(llm, method, **{self.limit_option: 1})[-1])
        assert len(short) < len(text)
        assert text.startswith(short)

    def test_a_completion_is_wrapped_once_unless_it_is_formatted(self) -> None:
        asked: list[str] = []

        def wrap(prompt: str) -> str:
            asked.append(prompt)
            return prompt

        llm = self.make(is_chat_model=False, completion_to_prompt=wrap)
        llm.complete(PROMPT, formatted=True)
        assert asked == []
        llm.complete(PROMPT)
        assert PROMPT in asked

    def test_images_are_read_or_refused(self, llm: LLM) -> None:
        if self.reads_images:
            pytest.skip("this model reads images")
        pixel = ImageBlock(url="http://127.0.0.1/a.png")
        with pytest.raises(Exception, match=r"(?i)image|block|multi-?modal"):
            llm.chat([ChatMessage(blocks=[pixel])])

    # --- failures

    @pytest.mark.parametrize("method", METHODS)
    def test_a_failing_generation_raises(self, llm: LLM, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        def around(generate: Any) -> Any:
            def fail(*args: Any, **kwargs: Any) -> Any:
                raise BrokenError("broken on purpose")

            return fail

        self.patch_generation(llm, monkeypatch, around)
        with pytest.raises(BrokenError):
            within(lambda: responses(llm, method))

    @pytest.mark.parametrize("method", [m for m in METHODS if m.startswith("a")])
    def test_the_event_loop_stays_free(self, llm: LLM, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        go_on, in_time = threading.Event(), list[bool]()

        def around(generate: Any) -> Any:
            def wait(*args: Any, **kwargs: Any) -> Any:
                in_time.append(go_on.wait(PATIENCE))  # only the event loop can end this
                return generate(*args, **kwargs)

            return wait

        self.patch_generation(llm, monkeypatch, around)

        async def call() -> None:
            result = await getattr(llm, method)(MESSAGES if "chat" in method else PROMPT)
            if "stream" in method:
                async for _ in result:
                    pass

        async def run() -> None:
            task = asyncio.ensure_future(call())
            while not task.done():
                await asyncio.sleep(0.05)
                go_on.set()
            await task

        asyncio.run(run())
        assert in_time == [True]

    @pytest.mark.parametrize("method", ["stream_complete", "stream_chat"])
    def test_an_abandoned_stream_ends_its_generation(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        llm, running, lengths = self.make(), list[int](), list[int]()

        def around(generate: Any) -> Any:
            def slow(*args: Any, **kwargs: Any) -> Any:
                running.append(1)
                try:
                    kwargs["max_new_tokens"] = 1500
                    made = generate(*args, **kwargs)
                    lengths.append(getattr(made, "sequences", made).shape[-1])
                    return made
                finally:
                    running.append(-1)

            return slow

        self.patch_generation(llm, monkeypatch, around)
        stream = getattr(llm, method)(MESSAGES if "chat" in method else PROMPT)
        next(stream)
        stream.close()
        del stream
        since = time.monotonic()
        while sum(running) and time.monotonic() - since < PATIENCE:
            time.sleep(0.02)
        assert sum(running) == 0, "the model goes on generating for nobody"
        assert all(length < 1500 for length in lengths), "the model went on to the end for nobody"

    # --- observers

    @pytest.fixture
    def events(self) -> Iterator[list[str]]:
        handler, dispatcher = _Events(seen=[]), get_dispatcher()
        dispatcher.add_event_handler(handler)
        yield handler.seen
        dispatcher.event_handlers.remove(handler)

    @pytest.mark.parametrize("method", METHODS)
    def test_events_are_fired_once(self, llm: LLM, events: list[str], method: str) -> None:
        responses(llm, method)
        kind = "Chat" if "chat" in method else "Completion"
        counts = [events.count(f"LLM{k}{part}Event") for k in ("Chat", "Completion") for part in ("Start", "End")]
        assert counts == ([1, 1, 0, 0] if kind == "Chat" else [0, 0, 1, 1]), events

    @pytest.mark.parametrize("method", METHODS)
    def test_callbacks_are_called_once(self, method: str) -> None:
        seen, counter = _Callbacks(), TokenCountingHandler(tokenizer=str.split)
        llm = self.make(callback_manager=CallbackManager([seen, counter]))
        responses(llm, method)
        assert (seen.starts, seen.ends) == (1, 1)
        assert len(counter.llm_token_counts) == 1

    @pytest.mark.parametrize("method", METHODS)
    def test_a_failed_call_ends_its_callback(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        seen = _Callbacks()
        llm = self.make(callback_manager=CallbackManager([seen]))

        def around(generate: Any) -> Any:
            def fail(*args: Any, **kwargs: Any) -> Any:
                raise BrokenError

            return fail

        self.patch_generation(llm, monkeypatch, around)
        with pytest.raises(BrokenError):
            within(lambda: responses(llm, method))
        assert (seen.starts, seen.ends) == (1, 1)

    # --- storing

    def test_to_dict_is_small_plain_data(self, llm: LLM) -> None:
        data = llm.to_dict()
        assert data["class_name"] == type(llm).class_name()
        assert len(json.dumps(data)) < 20_000

    def test_from_dict_gives_the_same_llm(self, llm: LLM) -> None:
        again = type(llm).from_dict(llm.to_dict())
        assert text_of(again.chat(MESSAGES)) == text_of(llm.chat(MESSAGES))

    def test_a_pickle_is_small_and_answers(self, llm: LLM) -> None:
        blob = pickle.dumps(llm)
        assert len(blob) < 50_000, "the weights are in the pickle"
        assert text_of(pickle.loads(blob).chat(MESSAGES)) == text_of(llm.chat(MESSAGES))

    # --- many at once

    def test_twenty_threads(self, llm: LLM) -> None:
        prompts = [f"{PROMPT} {n}" for n in range(20)]
        expected = [llm.complete(p).text for p in prompts]
        with ThreadPoolExecutor(20) as pool:
            assert list(pool.map(lambda p: llm.complete(p).text, prompts)) == expected

    def test_twenty_tasks(self, llm: LLM) -> None:
        prompts = [f"{PROMPT} {n}" for n in range(20)]
        expected = [llm.complete(p).text for p in prompts]

        async def run() -> list[str]:
            return [r.text for r in await asyncio.gather(*(llm.acomplete(p) for p in prompts))]

        assert asyncio.run(run()) == expected

    # --- query engines

    @pytest.fixture
    def index(self) -> VectorStoreIndex:
        return VectorStoreIndex([TextNode(text=t) for t in TEXTS], embed_model=MockEmbedding(embed_dim=4))

    @pytest.mark.parametrize("mode", MODES)
    def test_query_engine(self, llm: LLM, index: VectorStoreIndex, mode: str) -> None:
        engine = index.as_query_engine(llm=llm, response_mode=mode)
        answer = str(engine.query(QUESTION))
        assert answer.strip() not in ("", "Empty Response")
        assert str(asyncio.run(engine.aquery(QUESTION))) == answer

    def test_streaming_query_engine(self, llm: LLM, index: VectorStoreIndex) -> None:
        plain = str(index.as_query_engine(llm=llm).query(QUESTION))
        pieces = list(index.as_query_engine(llm=llm, streaming=True).query(QUESTION).response_gen)
        assert "".join(pieces) == plain

    # --- tools and structure

    @pytest.fixture
    def caller(self) -> Any:
        llm = self.make(**{self.limit_option: 80})
        if not llm.metadata.is_function_calling_model:
            pytest.fail("no function calling: metadata.is_function_calling_model is False")
        return llm

    def test_a_required_tool_call(self, caller: Any) -> None:
        tool = weather_tool()
        found = [caller.chat_with_tools([tool], PROMPT, tool_required=True)]
        found.append(list(caller.stream_chat_with_tools([tool], PROMPT, tool_required=True))[-1])
        found.append(asyncio.run(caller.achat_with_tools([tool], PROMPT, tool_required=True)))
        for response in found:
            (call,) = caller.get_tool_calls_from_response(response)
            assert call.tool_name == "weather"
            assert call.tool_kwargs["city"] in ("Lyon", "Oslo")
            assert call.tool_id

    def test_predict_and_call(self, caller: Any) -> None:
        tool = weather_tool()
        answer = caller.predict_and_call([tool], PROMPT, tool_required=True)
        assert answer.response in ("It rains in Lyon.", "It rains in Oslo.")
        later = asyncio.run(caller.apredict_and_call([tool], PROMPT, tool_required=True))
        assert later.response == answer.response

    def test_a_tools_answer_goes_back_to_the_model(self, caller: Any) -> None:
        tool = weather_tool()
        asked = caller.chat_with_tools([tool], PROMPT, tool_required=True)
        (call,) = caller.get_tool_calls_from_response(asked)
        result = ChatMessage("It rains.", role="tool", additional_kwargs={"tool_call_id": call.tool_id})
        assert caller.chat([ChatMessage(PROMPT), asked.message, result]).message.content

    def test_no_call_is_an_error_only_if_one_is_expected(self, caller: Any) -> None:
        response = caller.chat(MESSAGES)
        assert caller.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
        with pytest.raises(ValueError):
            caller.get_tool_calls_from_response(response)

    def test_structured_predict(self) -> None:
        llm = self.make(**{self.limit_option: 80})
        found = [llm.structured_predict(City, TEMPLATE, **VALUES)]
        found.append(asyncio.run(llm.astructured_predict(City, TEMPLATE, **VALUES)))
        found.append(list(llm.stream_structured_predict(City, TEMPLATE, **VALUES))[-1])
        assert all(isinstance(city, City) for city in found)
        assert found[0] == found[1] == found[2]

    def test_as_structured_llm(self) -> None:
        answer = self.make(**{self.limit_option: 80}).as_structured_llm(City).chat(MESSAGES)
        assert isinstance(answer.raw, City)
        assert City.model_validate_json(answer.message.content or "") == answer.raw
