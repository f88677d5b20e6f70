"""RemoteModel is a SteeredModel elsewhere: the same answers, reports, streams, tokens and errors."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from serving import running

from seka_rag import AdaSeka, KeyScaling, Prompt, RemoteModel, Seka, SekaError, errors, highlighting

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
EVIDENCE = "The home of Alec is in Lyon."
PROMPT = Prompt(
    f"Context:\n{EVIDENCE} The letter arrived in the spring.\n\nThe home of Alec is in Oslo.\n\n"
    "Question: Which city is the home of Alec?"
).highlight(EVIDENCE, weight=0.7, source="a")
MESSAGES = [{"role": "user", "content": PROMPT}]
TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]},
    },
}


@pytest.fixture(scope="module")
def far(demo):
    with running(demo, api_key="k") as url:
        yield RemoteModel(url, api_key="k", max_retries=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steering": Seka(gain=2.0)},
        {"steering": KeyScaling(gain=0.5, layers=(1, 2))},
        {"steering": None},
        {"temperature": 1.2, "top_k": 9, "seed": 4},
        {"stop": ["o"]},
        {"json_schema": {"enum": ["Oslo", "Lyon"]}},
    ],
)
async def test_answers_and_reports_are_the_same(demo, far, options):
    options = {**options, "max_new_tokens": 12}
    wanted = demo.chat(MESSAGES, **options)
    assert far.chat(MESSAGES, **options) == wanted == await far.achat(MESSAGES, **options)
    stream = far.stream_chat(MESSAGES, **options)
    assert ("".join(stream), stream.result) == (wanted.text, wanted)
    wanted = demo.generate(PROMPT, **options)
    assert far.generate(PROMPT, **options) == wanted == await far.agenerate(PROMPT, **options)
    assert "".join([piece async for piece in far.astream(PROMPT, **options)]) == wanted.text


def test_steering_really_takes_place_there(demo, far):
    plain, steered = (far.chat(MESSAGES, steering=s, max_new_tokens=4) for s in (None, Seka(gain=2.0)))
    assert (plain.text, steered.text) == ("Dublin", "Lyon")
    assert steered.report.tokens_edited == 8
    assert steered.report.bank == demo.bank.digest


async def test_a_list_is_several_requests(demo, far):
    prompts = [PROMPT, "Alec", Prompt("The home of Maud is in Rome.").mark(0, 8)]
    wanted = [demo.generate(p, max_new_tokens=5) for p in prompts]
    assert far.generate(prompts, max_new_tokens=5) == wanted == await far.agenerate(prompts, max_new_tokens=5)


def test_tools(demo, far):
    options = {"tools": [TOOL], "max_new_tokens": 80}
    wanted = demo.chat(MESSAGES, tool_choice="find", **options)
    for choice in ("find", "any"):
        got = far.chat(MESSAGES, tool_choice=choice, **options)
        stream = far.stream_chat(MESSAGES, tool_choice=choice, **options)
        for out in (got, stream.result):
            assert [(c.name, c.arguments) for c in out.tool_calls] == [("find", wanted.tool_calls[0].arguments)]
            assert (out.finish_reason, out.text) == ("stop", "")
    history = [
        *MESSAGES,
        {"role": "assistant", "content": "", "tool_calls": got.tool_calls},
        {"role": "tool", "content": "Rome", "tool_call_id": got.tool_calls[0].id},
    ]
    assert far.chat(history, max_new_tokens=5) == demo.chat(history, max_new_tokens=5)
    cut = far.chat(MESSAGES, tool_choice="find", tools=[TOOL], max_new_tokens=20)
    local = demo.chat(MESSAGES, tool_choice="find", tools=[TOOL], max_new_tokens=20)
    assert [(c.text, c.error) for c in cut.invalid_tool_calls] == [(c.text, c.error) for c in local.invalid_tool_calls]
    assert cut.invalid_tool_calls


def test_tokens_and_card(demo, far):
    assert far.tokenize(PROMPT) == demo.tokenize(PROMPT)
    assert far.tokenize_chat(MESSAGES, tools=[TOOL]) == demo.tokenize_chat(MESSAGES, tools=[TOOL])
    assert (far.name, far.context_length, far.can_call_tools) == ("seka-demo", 2048, True)


async def test_an_answer_tells_the_name_so_that_nothing_more_is_asked(demo, far):
    for ask in ("achat", "stream_chat"):
        model = RemoteModel(far.base_url, api_key="k")
        answer = getattr(model, ask)(MESSAGES, max_new_tokens=1)
        assert (await answer if ask == "achat" else answer.result).text
        assert model._card is None
        assert model.name == demo.name
        assert model._card is None


async def test_highlighting_blocks(demo, far):
    with highlighting([EVIDENCE]):
        wanted = demo.chat([{"role": "user", "content": PROMPT.text}], max_new_tokens=4)
        asked = [{"role": "user", "content": PROMPT.text}]
        assert far.chat(asked, max_new_tokens=4) == wanted == await far.achat(asked, max_new_tokens=4)
        assert far.generate(PROMPT.text, max_new_tokens=4).report.tokens_edited == 8
    assert wanted.report.tokens_edited == 8


async def test_several_answers(demo, far):
    options = {"max_new_tokens": 6, "num_return_sequences": 3, "temperature": 1.5, "seed": 3, "repetition_penalty": 5.0}
    wanted = demo.generate("Alec", **options)
    assert len({g.text for g in wanted}) > 1
    assert far.generate("Alec", **options) == wanted == await far.agenerate("Alec", **options)
    assert far.generate([PROMPT, "Alec"], **options)[3:] == wanted
    for model in (far, demo):
        with pytest.raises(errors.SettingError, match="num_return_sequences=3: a conversation has one answer"):
            model.chat(MESSAGES, **options)
    one = {**options, "num_return_sequences": 1}
    assert far.generate("Alec", **one) == demo.generate("Alec", **one)


async def test_options_of_the_template(demo, far, monkeypatch):
    template = demo.tokenizer.chat_template + "{% if calm %}Calmly:{% endif %}"
    monkeypatch.setattr(demo.tokenizer, "chat_template", template)
    wanted = demo.chat(MESSAGES, template={"calm": True}, max_new_tokens=4)
    assert wanted.prompt_tokens > demo.chat(MESSAGES, max_new_tokens=1).prompt_tokens
    assert far.chat(MESSAGES, template={"calm": True}, max_new_tokens=4) == wanted
    assert await far.achat(MESSAGES, template={"calm": True}, max_new_tokens=4) == wanted
    assert far.stream_chat(MESSAGES, template={"calm": True}, max_new_tokens=4).result == wanted
    assert far.tokenize_chat(MESSAGES, calm=True) == demo.tokenize_chat(MESSAGES, calm=True)
    with pytest.raises(errors.SettingError, match="no option 'loud'"):
        far.chat(MESSAGES, template={"loud": True})


def test_errors_say_the_field(far):
    with pytest.raises(errors.RequestError) as caught:
        far.chat(MESSAGES, max_new_tokens=1.5)
    assert caught.value.field == "max_tokens"


MISTAKES = [
    (errors.ContextLengthError, lambda m: m.chat(MESSAGES, max_new_tokens=3000)),
    (errors.SpanError, lambda m: m.generate(Prompt("a   b").mark(1, 3), max_new_tokens=1)),
    (errors.BankError, lambda m: m.generate(PROMPT, steering=AdaSeka(gain=1), max_new_tokens=1)),
    (errors.SettingError, lambda m: m.generate(PROMPT, steering="off")),
    (errors.SettingError, lambda m: m.chat(MESSAGES, tools=[TOOL], tool_choice="other")),
    (errors.TokenizationError, lambda m: m.chat(MESSAGES, tools=[{"type": "x"}])),
]


@pytest.mark.parametrize(("kind", "ask"), MISTAKES)
def test_errors_are_those_of_a_local_model(demo, far, kind, ask):
    told = []
    for model in (demo, far):
        with pytest.raises(SekaError) as caught:
            ask(model)
        assert type(caught.value) is kind
        told.append(str(caught.value))
    assert told[0] == told[1]


def test_what_cannot_be_sent(far):
    with pytest.raises(errors.SettingError, match="takes no option num_beams"):
        far.generate(PROMPT, num_beams=2)
    with pytest.raises(errors.TokenizationError, match="a remote model takes text"):
        far.generate(3)
    with pytest.raises(errors.SettingError, match="message 0: a server takes no weather"):
        far.chat([{"role": "user", "content": "x", "weather": 1}])


def test_keys_and_names(far):
    with pytest.raises(errors.AccessError, match="wants its key"):
        RemoteModel(far.base_url, api_key="wrong").generate("x")
    with pytest.raises(errors.ModelNotFoundError, match="serves 'seka-demo'"):
        RemoteModel(far.base_url, "other", "k").generate("x")
    assert RemoteModel(far.base_url, "seka-demo", "k").generate("Alec", max_new_tokens=1).report.method == "none"
    with pytest.raises(errors.SettingError, match="api_key is empty"):
        RemoteModel(far.base_url, api_key=" ")
    assert "'k'" not in repr(RemoteModel(far.base_url, api_key="k"))


def test_leaving_a_stream_ends_the_generation(demo, passes, endless):
    with running(demo, max_concurrent=1) as url:
        model = RemoteModel(url, max_retries=0)
        with model.stream("Alec", max_new_tokens=2000, repetition_penalty=5.0) as stream:
            next(iter(stream))
        assert model.generate("Alec", max_new_tokens=1).completion_tokens == 1
        assert len(passes) < 1900  # of 2000
        with pytest.raises(errors.GenerationTimeoutError, match="within 0.2 seconds"):
            model.generate("Alec", max_new_tokens=2000, repetition_penalty=5.0, timeout=0.2)


async def test_cancelling_a_task_ends_the_generation(demo, passes, endless):
    with running(demo, max_concurrent=1) as url:
        model = RemoteModel(url, max_retries=0)
        task = asyncio.ensure_future(model.agenerate("Alec", max_new_tokens=2000, repetition_penalty=5.0))
        while len(passes) < 5:
            await asyncio.sleep(0.01)
        task.cancel()
        assert (await model.agenerate("Alec", max_new_tokens=1)).completion_tokens == 1  # there is one slot only
        assert task.cancelled()
        assert len(passes) < 1900  # of 2000


class Other:
    """A server that answers each request with the next of these, (status, body), and then with the last for ever."""

    def __init__(self, *answers, headers=None):
        self.answers, self.asked = list(answers), 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                status, body = outer.answers[min(outer.asked, len(outer.answers) - 1)]
                outer.asked += 1
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"content-length": str(len(data)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()


BUSY = {"error": {"message": "later", "type": "x", "param": None, "code": "BusyError"}}
REPORT = {
    "method": "none", "gain": 0.0, "tokens_marked": 0, "tokens_edited": 0, "layers": [], "heads": 0, "bank": None,
    "experts": [], "warnings": [],
}  # fmt: skip
USAGE = {"prompt_tokens": 1, "completion_tokens": 1}
GOOD = {"choices": [{"text": "yes", "finish_reason": "stop"}], "usage": USAGE, "seka": REPORT}


async def test_only_what_may_pass_is_tried_again():
    for status in (429, 503):
        with Other((status, BUSY), (status, {}), (200, GOOD)) as other:
            assert RemoteModel(other.url, max_retries=2).generate("x").text == "yes"
            assert other.asked == 3
        with Other((status, {})) as other:
            with pytest.raises(errors.BusyError):
                await RemoteModel(other.url, max_retries=1).agenerate("x")
            assert other.asked == 2
    with Other((500, {"error": {"message": "broken", "code": "InternalError"}})) as other:
        with pytest.raises(errors.RemoteError, match=r"127\.0\.0\.1:\d+/v1/completions answered with 500: broken"):
            RemoteModel(other.url).generate("x")
        assert other.asked == 1


def test_it_waits_as_long_as_the_server_says():
    for header, least in (("0.6", 0.6), ("Fri, 31 Dec 1999 23:59:59 GMT", 0), ("-3", 0)):
        with Other((429, BUSY), (200, GOOD), headers={"retry-after": header}) as other:
            began = time.monotonic()
            assert RemoteModel(other.url, max_retries=1).generate("x").text == "yes"
            assert time.monotonic() - began >= least


def test_a_key_beyond_ascii(demo):
    with running(demo, api_key="Schlüssel") as url:
        assert RemoteModel(url, api_key="Schlüssel\n").generate("Alec", max_new_tokens=1).completion_tokens == 1


def test_a_server_that_does_not_steer_is_an_error():
    """Another server of OpenAI's API ignores the field, and the answer would be silently unsteered."""
    for wrong in ({**GOOD, "seka": None}, {k: v for k, v in GOOD.items() if k != "seka"}, {"choices": []}):
        with Other((200, wrong)) as other, pytest.raises(errors.RemoteError, match="nothing says that it steered"):
            RemoteModel(other.url).generate("x")
    with Other((200, b"<html>")) as other, pytest.raises(errors.RemoteError, match="not JSON"):
        RemoteModel(other.url).generate("x")
    with Other((200, b'data: {"choices": [{"text": "a"}]}\n\n')) as other:
        with pytest.raises(errors.RemoteError, match="ended before it was complete"):
            list(RemoteModel(other.url).stream("x"))
    event = b'data: {"error": {"message": "no", "code": "GenerationTimeoutError"}}\n\n'
    with Other((200, event)) as other, pytest.raises(errors.GenerationTimeoutError, match="no"):
        list(RemoteModel(other.url).stream("x"))


def test_a_server_that_is_not_there():
    with Other((200, GOOD)) as other:
        url = other.url
    for ask in (lambda m: m.generate("x"), lambda m: list(m.stream("x"))):
        with pytest.raises(errors.RemoteError, match=f"cannot reach {url.removesuffix('/v1')}"):
            ask(RemoteModel(url, max_retries=0))


def test_errors_keep_their_class():
    from seka_rag.server.client.wire import read_error

    for kind in [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, SekaError)]:
        told = read_error(400, {"error": {"code": kind.__name__, "message": "so"}}, url="u")
        assert (type(told), str(told)) == (kind, "so")
    assert type(read_error(418, {"error": {"code": "os"}}, url="u")) is errors.RemoteError
