"""Direct calls: answers, usage, options, streaming, failures, and what is stored of the model."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
from typing import ClassVar

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole
from llama_index.core.callbacks import CallbackManager, CBEventType, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.llms.seka import SekaLLM, SekaLLMError, mark_message
from patience import PATIENCE, check_loop_is_free, until_true

from seka_rag import Passage, Prompt, Seka, SekaError, Span, highlighting
from seka_rag.errors import GenerationTimeoutError, ModelNotFoundError, SteeringError

TEXT = "Astrid moved to Lyon last year. Where does Astrid live?"
USER = [ChatMessage(TEXT)]
MARKED = [mark_message(ChatMessage(TEXT), [Span(0, 31, 1.0, "a.txt")])]
USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


async def every_way(llm: SekaLLM, messages: list[ChatMessage], **options) -> dict[str, list]:
    """The responses of all eight methods."""
    prompt = Prompt(TEXT, tuple(Span(s, e, w, n) for s, e, w, n in messages[0].additional_kwargs["seka"]["spans"]))
    return {
        "chat": [llm.chat(messages, **options)],
        "achat": [await llm.achat(messages, **options)],
        "stream_chat": list(llm.stream_chat(messages, **options)),
        "astream_chat": [r async for r in await llm.astream_chat(messages, **options)],
        "complete": [llm.complete(prompt, **options)],
        "acomplete": [await llm.acomplete(prompt, **options)],
        "stream_complete": list(llm.stream_complete(prompt, **options)),
        "astream_complete": [r async for r in await llm.astream_complete(prompt, **options)],
    }


def text_of(response) -> str:
    return response.message.content if hasattr(response, "message") else response.text


async def test_all_ways_give_the_same_answer_usage_and_report(llm, engine):
    expected = engine.chat([{"role": "user", "content": Prompt(TEXT).mark(0, 31)}], max_new_tokens=3)
    for name, responses in (await every_way(llm, MARKED)).items():
        last = responses[-1]
        assert text_of(last) == expected.text, name
        assert [last.additional_kwargs[k] for k in USAGE] == [
            expected.prompt_tokens,
            expected.completion_tokens,
            expected.prompt_tokens + expected.completion_tokens,
        ]
        assert last.raw["usage"] == {k: last.additional_kwargs[k] for k in USAGE}
        assert last.raw["finish_reason"] == expected.finish_reason
        report = last.additional_kwargs["seka"]
        assert report["tokens_edited"] == report["tokens_marked"] == 7
        assert report["highlights"] == [{"message": 0, "start": 0, "end": 31, "weight": 1.0, "source": "a.txt"}]
        if "chat" in name:
            assert last.message.additional_kwargs["seka"] == report
            assert last.message.role == MessageRole.ASSISTANT
        if "stream" in name:
            assert "".join(r.delta for r in responses) == expected.text
            assert len(responses) > 2
            assert [text_of(r) for r in responses] == sorted((text_of(r) for r in responses), key=len)


async def test_the_report_on_an_answer_is_not_taken_for_highlights(llm):
    answer = llm.chat(MARKED).message
    again = llm.chat([*MARKED, answer, ChatMessage("And Boris?")])
    assert [h["message"] for h in again.additional_kwargs["seka"]["highlights"]] == [0]
    assert again.additional_kwargs["seka"]["warnings"] == []


def test_highlights_change_what_the_model_computes(engine, llm):
    strong = SekaLLM(steered_model=engine, steering=Seka(gain=60.0), max_tokens=8)
    assert strong.chat(MARKED).message.content != strong.chat(USER).message.content
    assert strong.chat(MARKED, highlight="off").message.content == strong.chat(USER).message.content
    assert strong.chat(MARKED, steering=None).message.content == strong.chat(USER).message.content


def test_completion_of_a_formatted_prompt_is_plain_continuation(llm, engine):
    assert llm.complete(TEXT, formatted=True).text == engine.generate(TEXT, max_new_tokens=3).text
    wrapped = SekaLLM(
        steered_model=engine, is_chat_model=False, max_tokens=3, completion_to_prompt="Question: {}".format
    )
    response = wrapped.complete(Prompt(TEXT).mark(0, 31))
    assert response.text == engine.generate(Prompt("Question: " + TEXT).mark(10, 41), max_new_tokens=3).text
    assert response.additional_kwargs["seka"]["tokens_edited"] == 7


def test_a_model_without_chat_template_is_given_the_messages_as_text(llm, engine, monkeypatch, seen):
    monkeypatch.setattr(engine.tokenizer, "chat_template", None)
    assert not llm.metadata.is_chat_model
    report = llm.chat([ChatMessage("Answer briefly.", role="system"), *MARKED]).additional_kwargs["seka"]
    assert report["tokens_edited"] == 7
    text = engine.tokenizer.decode(seen[0].ids)
    assert text.count("system") == text.count("user") == text.count("assistant") == 1
    assert "seka" not in text


def test_a_wrapper_of_messages_may_change_text_in_which_nothing_is_marked(engine, monkeypatch):
    monkeypatch.setattr(engine.tokenizer, "chat_template", None)
    loud = SekaLLM(steered_model=engine, max_tokens=3, messages_to_prompt=lambda messages: messages[0].content.upper())
    assert loud.chat(USER).message.content == engine.generate(TEXT.upper(), max_new_tokens=3).text
    assert loud.chat(MARKED, highlight="off").message.content == loud.chat(USER).message.content
    with pytest.raises(SekaLLMError, match="cannot be followed"):
        loud.chat(MARKED)


async def test_options_of_a_call(engine):
    llm = SekaLLM(steered_model=engine, max_tokens=6)
    for responses in (await every_way(llm, MARKED, max_tokens=2)).values():
        assert responses[-1].additional_kwargs["completion_tokens"] == 2
    text = llm.chat(USER).message.content
    word = text.split()[2]
    assert llm.chat(USER, stop=[word]).message.content == text[: text.index(word)]
    assert (
        SekaLLM(steered_model=engine, max_tokens=6, stop=[word]).chat(USER).message.content == text[: text.index(word)]
    )
    warm = [llm.chat(USER, temperature=5.0, seed=seed).message.content for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]
    assert llm.chat(USER, temperature=0.0, seed=1, top_p=0.5).message.content == text


def test_an_answer_that_takes_too_long_is_an_error(engine):
    llm = SekaLLM(steered_model=engine, max_tokens=1500, timeout=1e-6)
    with pytest.raises(GenerationTimeoutError):
        llm.chat(USER)
    with pytest.raises(TimeoutError):
        list(llm.stream_chat(USER))
    assert SekaLLM(steered_model=engine, max_tokens=2).chat(USER, timeout=PATIENCE)


@pytest.mark.parametrize(
    "options", [{"max_token": 3}, {"highlight": "on"}, {"steering": "strong"}, {"temperature": -1.0}]
)
async def test_options_that_cannot_be(llm, options):
    with pytest.raises(SekaLLMError, match=next(iter(options))):
        llm.chat(USER, **options)
    with pytest.raises(SekaLLMError):
        await llm.acomplete(TEXT, **options)


def test_fields_are_checked(engine):
    for wrong in ({"max_tokenz": 3}, {"highlighter": "best"}, {"steering": 3}, {"max_tokens": 0}, {"highlight": "on"}):
        with pytest.raises(ValueError):
            SekaLLM(steered_model=engine, **wrong)
    with pytest.raises(ValueError, match="model"):
        SekaLLM()


def test_marks_that_do_not_fit(llm):
    (message,) = MARKED
    shortened = message.model_copy()
    shortened.content = TEXT[5:]
    report = llm.chat([shortened]).additional_kwargs["seka"]
    assert report["highlights"] == []
    assert "message 0: its text changed" in report["warnings"][0]
    for role in ("assistant", "tool"):
        said = llm.chat([message.model_copy(update={"role": MessageRole(role)})]).additional_kwargs["seka"]
        assert said["highlights"] == []
        assert "not trusted" in said["warnings"][0]
    with pytest.raises(SekaLLMError, match="mark_message"):
        marks = {**mark_message(ChatMessage("x"), []).additional_kwargs["seka"], "spans": [[0]]}
        llm.chat([ChatMessage("x", additional_kwargs={"seka": marks})])
    with pytest.raises(SekaLLMError, match="mark_message"):
        llm.chat([ChatMessage("x", additional_kwargs={"seka": "all"})])
    with pytest.raises(SekaError):
        mark_message(ChatMessage("x"), [Span(0, 2)])


def test_images_are_refused(llm):
    with pytest.raises(SekaLLMError, match="ImageBlock"):
        llm.chat([ChatMessage(blocks=[ImageBlock(url="http://example.org/a.png")])])


# --- failures


class BrokenError(Exception):
    pass


async def test_a_failing_generation_raises_everywhere(llm, engine, monkeypatch):
    def fail(*args, **kwargs):
        raise BrokenError

    monkeypatch.setattr(engine.hf_model, "generate", fail)
    for call in (llm.chat, lambda messages: list(llm.stream_chat(messages))):
        with pytest.raises(BrokenError):
            call(MARKED)
    for call in (llm.complete, lambda prompt: list(llm.stream_complete(prompt))):
        with pytest.raises(BrokenError):
            call(TEXT)
    for start in (llm.astream_chat(MARKED), llm.astream_complete(TEXT)):
        with pytest.raises(BrokenError):
            async for _ in await start:
                pass
    for whole in (llm.achat(MARKED), llm.acomplete(TEXT)):
        with pytest.raises(BrokenError):
            await asyncio.wait_for(whole, 10)


def test_errors_are_not_swallowed_by_refining_synthesizers(engine, index):
    llm = SekaLLM(steered_model=engine, context_window=100_000, max_tokens=2040)
    with pytest.raises(SekaLLMError, match="context of 2048"):
        index.as_query_engine(llm=llm, response_mode="compact").query("Where did Astrid move to?")


def test_highlights_without_a_bank_are_an_error(engine, index):
    from seka_rag import SteeredModel

    bare = SteeredModel(engine.hf_model, engine.tokenizer, name="bare")
    with pytest.raises(ValueError, match="has no bank"):  # when it is made, and not at the first retrieval
        SekaLLM(steered_model=bare)
    assert SekaLLM(steered_model=bare, highlight="off", max_tokens=1).complete("Where?").text is not None
    assert index.as_query_engine(llm=SekaLLM(steered_model=bare, steering=None, max_tokens=2)).query("Where?")


def running() -> int:
    return sum(t.name == "seka-stream" for t in threading.enumerate())


async def until_none_runs() -> None:
    """A generation whose stream was abandoned does not go on."""
    await until_true(lambda: gc.collect() is None or not running())


async def test_abandoned_streams_end_the_generation(engine):
    llm = SekaLLM(steered_model=engine, max_tokens=2000)
    for stream in (llm.stream_chat(MARKED), llm.stream_complete(TEXT)):
        next(stream)
        assert running()
        stream.close()
        del stream
        await until_none_runs()
    for stream in (await llm.astream_chat(MARKED), await llm.astream_complete(TEXT)):
        await anext(stream)
        assert running()
        await stream.aclose()
        del stream
        await until_none_runs()
    for response in (llm.stream_chat(MARKED),):  # only dropped
        next(response)
    del response
    await until_none_runs()


async def test_a_cancelled_task_ends_the_generation(engine, monkeypatch):
    llm = SekaLLM(steered_model=engine, max_tokens=2000)
    started, lengths, run = threading.Event(), [], engine._run

    def recorded(call):
        started.set()
        (generation,) = run(call)
        lengths.append(generation.completion_tokens)
        return [generation]

    monkeypatch.setattr(engine, "_run", recorded)

    async def read() -> None:
        async for _ in await llm.astream_chat(MARKED):
            pass

    for n, work in enumerate((llm.achat(MARKED), read()), start=1):
        started.clear()
        task = asyncio.create_task(work)
        await until_true(started.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_true(lambda n=n: len(lengths) == n)
    assert max(lengths) < 1900


async def test_async_methods_leave_the_event_loop_free(engine, monkeypatch):
    llm = SekaLLM(steered_model=engine, max_tokens=1)

    async def streamed(start) -> None:
        async for _ in await start:
            pass

    calls = (
        llm.achat(USER),
        llm.acomplete(TEXT),
        streamed(llm.astream_chat(USER)),
        streamed(llm.astream_complete(TEXT)),
    )
    await check_loop_is_free(engine, calls, monkeypatch)


# --- observers


class Events(BaseEventHandler):
    seen: ClassVar[list] = []

    def handle(self, event, **kwargs):
        self.seen.append(event.class_name())


async def test_events_are_fired_once_for_each_call(engine):
    counter, handler = TokenCountingHandler(tokenizer=engine.tokenizer.tokenize), Events()
    llm = SekaLLM(steered_model=engine, max_tokens=2, callback_manager=CallbackManager([counter]))
    dispatcher = get_dispatcher()
    dispatcher.add_event_handler(handler)
    try:
        await every_way(llm, MARKED)
    finally:
        dispatcher.event_handlers.remove(handler)
    for kind in ("LLMChatStartEvent", "LLMChatEndEvent", "LLMCompletionStartEvent", "LLMCompletionEndEvent"):
        assert handler.seen.count(kind) == 4, kind
    assert len(counter.llm_token_counts) == 8
    prompt_tokens = llm.chat(MARKED).additional_kwargs["prompt_tokens"]
    assert {c.prompt_token_count for c in counter.llm_token_counts} == {prompt_tokens}
    assert CBEventType.LLM


def test_what_callbacks_see_loads_nothing(monkeypatch):
    monkeypatch.setattr(SekaLLM, "_load", lambda self: pytest.fail("loaded"))
    llm = SekaLLM(model="some/model", context_window=100, is_chat_model=True, is_function_calling_model=False)
    assert llm.to_payload()["model_name"] == "some/model"
    assert llm.metadata.context_window == 100
    assert "engine" not in repr(llm)


# --- storing


def test_metadata(llm):
    assert llm.class_name() == "SekaLLM"
    assert (llm.metadata.num_output, llm.metadata.model_name) == (3, "tiny")
    around = len(llm.engine.tokenize_chat([{"role": "system", "content": ""}, {"role": "user", "content": ""}]))
    assert 2048 - around - 2 <= llm.metadata.context_window < 2048  # room for what the chat template writes
    assert llm.metadata.is_chat_model
    assert llm.metadata.is_function_calling_model  # the demo's chat template writes tool calls


def test_the_engine_is_not_stored(engine):
    llm = SekaLLM(steered_model=engine, steering=Seka(gain=0.5), stop=["x"], seed=3, max_tokens=5, highlighter="all")
    data = llm.to_dict()
    assert "steered_model" not in data
    assert len(llm.to_json()) < 1000
    again = SekaLLM.from_dict(data)
    assert again.steering == Seka(gain=0.5)
    assert again.to_dict() == data
    blob = pickle.dumps(llm)
    assert len(blob) < 20_000
    assert pickle.loads(blob).to_dict() == data
    for twin in (copy.copy(llm), copy.deepcopy(llm), llm.model_copy()):
        assert twin.engine is engine


def test_a_callable_highlighter_is_never_replaced_by_another(engine):
    llm = SekaLLM(steered_model=engine, highlighter=lambda question, passages: [() for _ in passages])
    with pytest.raises(ValueError, match="no highlighter"):
        SekaLLM.from_dict(llm.to_dict())
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(llm)


def test_marks_for_a_model_without_a_bank_by_choice_are_an_error(engine, index):
    model = SekaLLM(steered_model=engine, bank=None, max_tokens=1)
    with pytest.raises(SekaError, match="bank=None"):
        model.chat(MARKED)
    assert model.chat(MARKED, steering=None).additional_kwargs["seka"]["highlights"] == []
    assert index.as_query_engine(llm=model).query("Where?").metadata["seka"]["reports"][0]["highlights"] == []


def test_models_are_loaded_once_by_name(engine, tmp_path):
    engine.hf_model.save_pretrained(tmp_path / "m")
    engine.tokenizer.save_pretrained(tmp_path / "m")
    engine.bank.save(tmp_path / "bank")
    one = SekaLLM(model=str(tmp_path / "m"), bank=tmp_path / "bank", max_tokens=3)
    two = SekaLLM.from_dict(one.to_dict())
    assert one.engine is two.engine is pickle.loads(pickle.dumps(one)).engine
    assert one.chat(MARKED).message.content == SekaLLM(steered_model=engine, max_tokens=3).chat(MARKED).message.content
    assert SekaLLM(model=str(tmp_path / "m"), bank=None).engine is not one.engine
    with pytest.raises(SekaError, match="neither a folder here"):
        SekaLLM(model="nobody/none").chat(USER)


def test_two_models(engine):
    with pytest.raises(ValueError, match="give one of the two"):
        SekaLLM(model="another", steered_model=engine)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ModelNotFoundError):
        SekaLLM(model=str(tmp_path / "none")).complete("Hello")


async def test_a_block_of_highlighting_is_in_the_report(llm, either):
    """Every way of asking looks at the open block once."""
    document = Passage(TEXT[:31], source="a.txt")
    span = {"message": 0, "start": 0, "end": 31, "weight": 1.0, "source": "a.txt"}
    plain = [mark_message(ChatMessage(TEXT), ())]
    for model in (llm, either):
        with highlighting([document]) as scope:
            ways = await every_way(model, plain)
        for name, responses in ways.items():
            report = responses[-1].additional_kwargs["seka"]
            assert report["highlights"] == [span], name
            assert report["tokens_edited"] == report["tokens_marked"] > 0, name
        assert (scope.prompts, scope.marked, scope.ambiguous) == (8, 8, 0)


def test_a_block_of_highlighting_leaves_others_alone(llm, either):
    with highlighting([TEXT[32:]]) as scope:
        own = llm.chat(MARKED).additional_kwargs["seka"]
        off = [m.complete(TEXT, highlight="off").additional_kwargs["seka"] for m in (llm, either)]
    assert [h["end"] for h in own["highlights"]] == [31]
    assert all(r["tokens_marked"] == 0 and "highlighting(...) marks nothing" in r["warnings"][0] for r in off)
    assert scope.prompts == 0
    with pytest.raises(SteeringError, match="any of 2 prompts"):
        with highlighting([TEXT[32:]]) as scope:
            llm.chat([ChatMessage(TEXT), ChatMessage(TEXT)])
            either.complete("Who?")
    assert (scope.prompts, scope.ambiguous) == (2, 1)
