"""vLLM's API server with the plugin: our routes and clients, its own routes, experts, bad requests, a kill, our command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from tiny import demo_tokenizer, random_expert
from vllm_engines import mixed, reference

from seka_rag import AdaSeka, ExpertBank, KeyVector, Prompt, RemoteModel, Seka, SteeredModel
from seka_rag.errors import AccessError, RemoteError, SekaError, SettingError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KEY = "a-key-of-tests"
PATIENCE = 600  # seconds for a server to start on a machine that is busy
OPTIONS = "--dtype float32 --max-model-len 512 --block-size 32 --max-num-batched-tokens 64 --enforce-eager".split()
ROUTED = AdaSeka(gain=0.8, top_k=3, two_pass=True)


class Server:
    """A process of vLLM's server, and its children.

    Args:
        experts: a bank of them, in the same engine.
    """

    def __init__(self, folder, experts) -> None:
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            self.port = place.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        banks = {"main": str(folder / "bank"), "experts": {"bank": str(experts), "steering": ROUTED.as_dict()}}
        command = ["vllm.entrypoints.openai.api_server", "--model", folder / "model", "--served-model-name", "tiny"]
        self.start(
            [*command, "--additional-config", json.dumps({"seka": {"banks": banks}}), *self.address(), *OPTIONS],
            VLLM_PLUGINS="seka",
            VLLM_API_KEY=KEY,
        )

    def address(self) -> list:
        return ["--host", "127.0.0.1", "--port", self.port]

    def start_by_our_command(self) -> None:
        model, bank = self.folder / "model", self.folder / "bank"
        command = ["seka_rag.cli", "serve", model, "--backend", "vllm", "--bank", bank, "--served-model-name", "tiny"]
        self.start([*command, *self.address(), "--", *OPTIONS], SEKA_API_KEY=KEY)

    def start(self, arguments, **environment) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", **environment},
            process_group=0,
        )
        end = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, "the server has ended"
            assert time.monotonic() < end, "the server has not started"
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.5)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def post(self, path, body):
        request = urllib.request.Request(
            self.url + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def experts(tiny_llama):
    _, model, _ = tiny_llama
    return ExpertBank({"a": random_expert(model, 1), "b": random_expert(model, 2)})


@pytest.fixture(scope="module")
def server(tiny_llama, experts, tmp_path_factory):
    folder, _, bank = tiny_llama
    bank.steering = KeyVector().as_dict()
    bank.save(folder / "bank")
    place = tmp_path_factory.mktemp("experts")
    experts.save(place)
    running = Server(folder, place)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def here(tiny_llama):
    _, model, bank = tiny_llama
    return SteeredModel(model, demo_tokenizer(), bank=bank, steering=KeyVector(), name="tiny")


FACT = "The home of Alec is in Lyon."
TEXT = f"The home of Vera is in Turin. {FACT} Which city is the home of Alec?"
MESSAGES = [{"role": "user", "content": Prompt(TEXT).highlight(FACT)}]
PLAIN = [{"role": "user", "content": TEXT}]


def test_our_client(server, here):
    model = RemoteModel(f"{server.url}/v1/seka", api_key=KEY)
    assert (model.name, model.context_length, model.can_chat) == ("tiny", 512, True)
    for messages in (MESSAGES, PLAIN):
        expected, answer = here.chat(messages, max_new_tokens=12), model.chat(messages, max_new_tokens=12)
        assert (answer.text, answer.prompt_tokens) == (expected.text, expected.prompt_tokens)
        assert answer.report.as_dict() == {**expected.report.as_dict(), "experts": []}
    assert here.chat(MESSAGES, max_new_tokens=12).text != here.chat(PLAIN, max_new_tokens=12).text
    prompt = Prompt(TEXT).highlight(FACT)
    stream = model.stream(prompt, max_new_tokens=12)
    pieces = list(stream)
    assert "".join(pieces) == stream.result.text
    assert len(pieces) > 5
    text = here.generate(prompt, max_new_tokens=12).text
    assert stream.result.text.lstrip(" #") == text.lstrip(" #")  # vLLM writes the beginning of a word in its own way
    assert stream.result.report.tokens_edited == stream.result.report.tokens_marked > 3
    assert model.tokenize(prompt) == here.tokenize(prompt)
    assert model.generate(prompt, steering=KeyVector(gain=0.5), max_new_tokens=3).report.gain == 0.5
    with pytest.raises(SettingError, match="chosen at its start"):
        model.generate(prompt, steering=Seka(), max_new_tokens=3)
    with pytest.raises(SekaError, match="takes no option json_schema"):
        model.generate(prompt, json_schema=True, max_new_tokens=3)


def test_several_answers_and_a_missing_key(server):
    model, prompt = RemoteModel(f"{server.url}/v1/seka", api_key=KEY), Prompt(TEXT).highlight(FACT)
    several = model.generate(prompt, max_new_tokens=6, temperature=1.0, num_return_sequences=3)
    assert len({answer.text for answer in several}) == 3
    assert all(answer.report.tokens_edited == answer.report.tokens_marked > 3 for answer in several)
    with pytest.raises(AccessError):
        RemoteModel(f"{server.url}/v1/seka").generate(prompt, max_new_tokens=3)


def test_langchain(server, here):
    pytest.importorskip("langchain_core")
    from langchain_core.messages import HumanMessage
    from langchain_seka import ChatSeka, mark_message

    chat = ChatSeka(base_url=f"{server.url}/v1/seka", api_key=KEY, max_tokens=12)
    for spans, messages in (((), PLAIN), (MESSAGES[0]["content"].spans, MESSAGES)):
        answer, expected = (
            chat.invoke([mark_message(HumanMessage(TEXT), spans)]),
            here.chat(messages, max_new_tokens=12),
        )
        assert answer.content == expected.text
        assert answer.response_metadata["seka"]["tokens_edited"] == expected.report.tokens_edited


def test_its_own_routes(server, tiny_llama):
    prompt = list(mixed(tiny_llama[1].config.vocab_size)[0].prompt)
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 3, "temperature": 0}
    status, plain = server.post("/v1/completions", body)
    assert status == 200
    assert plain["kv_transfer_params"] is None
    status, steered = server.post("/v1/completions", {**body, "vllm_xargs": {"seka_spans": [140, 160]}})
    assert status == 200
    report = steered["kv_transfer_params"]["seka"]
    assert (report["tokens_marked"], report["tokens_edited"], report["layers"]) == (20, 20, [0, 1, 2])
    assert steered["choices"][0]["text"] != plain["choices"][0]["text"]
    for args, message in (
        ({"seka_spans": [140, 900]}, "reaches beyond the prompt of 200 tokens"),
        ({"seka_spans": [1, 2], "seka_bank": "x"}, "no bank 'x'"),
        ({"seka_spans": [1, 2]}, "beam search is not steered"),
    ):
        beams = {"use_beam_search": True, "n": 2} if "beam" in message else {}
        status, refused = server.post("/v1/completions", {**body, **beams, "vllm_xargs": args})
        assert status == 400
        assert message in refused["error"]["message"]


def test_many_clients_at_once(server, here):
    """Steered and plain, whole, in pieces and left early: each answer and report is what it is alone."""
    model = RemoteModel(f"{server.url}/v1/seka", api_key=KEY)
    prompts = []
    for name, city in (("Alec", "Lyon"), ("Vera", "Turin"), ("Hugo", "Lisbon")):
        fact = f"The home of {name} is in {city}."
        text = f"Nora came from Dublin. {fact} Which city is the home of {name}?"
        prompts += [Prompt(text), Prompt(text).highlight(fact)]
    expected = [here.generate(prompt, max_new_tokens=12) for prompt in prompts]
    assert len({answer.text for answer in expected}) > len(prompts) // 2

    def ask(i: int) -> bool:
        prompt, alone, way = prompts[i % 6], expected[i % 6], i // 6 % 3
        with model.stream(prompt, max_new_tokens=12 if way < 2 else 300) as stream:
            if way == 2:
                next(iter(stream))
                return False
            answer = model.generate(prompt, max_new_tokens=12) if way else (list(stream), stream.result)[1]
        assert answer.text.lstrip(" #") == alone.text.lstrip(" #")
        assert answer.report.tokens_edited == alone.report.tokens_edited
        return True

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(ask, range(72))) == 48


def test_metrics(server, tiny_llama):
    """Steered answers and tokens by bank, refused requests, and nothing that should have been steered and was not."""

    def figures():
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=120) as answer:
            rows = (line.rpartition(" ") for line in answer.read().decode().splitlines() if line.startswith("seka_"))
            return {name: float(value) for name, _, value in rows}

    model, prompt = RemoteModel(f"{server.url}/v1/seka", api_key=KEY), Prompt(TEXT).highlight(FACT)
    report = model.generate(prompt, max_new_tokens=3).report
    before, bank = figures(), f'{{bank="{report.bank}"}}'
    model.generate(prompt, max_new_tokens=3)
    model.generate(TEXT, max_new_tokens=3)
    body = {"model": "tiny", "prompt": [9, 10], "max_tokens": 1, "vllm_xargs": {"seka_spans": [0, 5]}}
    assert server.post("/v1/completions", body)[0] == 400
    added = {name: value - before[name] for name, value in figures().items() if "_created" not in name}
    assert added == {
        f"seka_steered_answers_total{bank}": 1,
        f"seka_highlighted_tokens_total{bank}": report.tokens_edited,
        f"seka_unsteered_tokens_total{bank}": 0,
        "seka_refused_requests_total": 1,
    }


def test_experts_by_token_positions(server, tiny_llama, experts):
    """A probe, then its routing beside the highlights: log-probabilities are those of two passes in transformers."""
    _, model, _ = tiny_llama
    one = mixed(model.config.vocab_size)[1]
    ((tokens, expected),) = reference(model, experts, ROUTED, [one])
    body = {"model": "tiny", "prompt": list(one.prompt), "temperature": 0, "ignore_eos": True}
    probe = {"seka_probe": True, "seka_bank": "experts"}
    status, probed = server.post("/v1/completions", {**body, "max_tokens": 1, "vllm_xargs": probe})
    assert status == 200
    routing = tuple(probed["kv_transfer_params"]["seka"]["routing"])
    body |= {"max_tokens": len(tokens), "logprobs": 20, "return_tokens_as_token_ids": True}

    def off(args):
        status, answer = server.post("/v1/completions", {**body, **args})
        assert status == 200
        top = answer["choices"][0]["logprobs"]["top_logprobs"]
        steps = [{int(name.removeprefix("token_id:")): value for name, value in step.items()} for step in top]
        assert all(len(step) >= 20 for step in steps)
        pairs = [
            (value, row[token]) for step, row in zip(steps, expected, strict=True) for token, value in step.items()
        ]
        return max(abs(value - float(wanted)) for value, wanted in pairs)

    highlights = replace(one.highlights, bank="experts", routing=routing)
    difference = off({"vllm_xargs": highlights.as_args()})
    print(f"\nover HTTP, AdaSeka with a probe: {difference:.1e}")
    assert difference < 1e-4
    assert off({}) > 0.01  # steering matters there
    unrouted = {**body, "vllm_xargs": replace(highlights, routing=None).as_args()}
    status, refused = server.post("/v1/completions", unrouted)
    assert status == 400
    assert "send the prompt with seka_probe first" in refused["error"]["message"]


def test_experts_by_characters(server, tiny_llama, experts):
    """Our routes send the probe themselves, for whole answers and for streams."""
    here = SteeredModel(tiny_llama[1], demo_tokenizer(), bank=experts, steering=ROUTED)
    there, prompt = RemoteModel(f"{server.url}/v1/seka", api_key=KEY), Prompt(TEXT).highlight(FACT)
    plain, expected = (here.generate(text, max_new_tokens=12) for text in (TEXT, prompt))
    stream = there.stream(prompt, steering=ROUTED, max_new_tokens=12)
    assert "".join(stream) == stream.result.text
    for answer in (there.generate(prompt, steering=ROUTED, max_new_tokens=12), stream.result):
        assert answer.text.lstrip(" #") == expected.text.lstrip(" #") != plain.text.lstrip(" #")
        assert answer.report.tokens_edited == expected.report.tokens_edited > 3
        assert answer.report.experts[0] == pytest.approx(expected.report.experts[0], abs=1e-4)


def test_llama_index(server, here):
    pytest.importorskip("llama_index.core")
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.seka import SekaLLM, mark_message

    llm = SekaLLM(base_url=f"{server.url}/v1/seka", api_key=KEY, max_tokens=12)
    for spans, messages in (((), PLAIN), (MESSAGES[0]["content"].spans, MESSAGES)):
        answer, expected = llm.chat([mark_message(ChatMessage(TEXT), spans)]), here.chat(messages, max_new_tokens=12)
        assert answer.message.content == expected.text
        assert answer.additional_kwargs["seka"]["tokens_edited"] == expected.report.tokens_edited


def test_a_server_that_is_killed_and_started_again(server, here):
    model = RemoteModel(f"{server.url}/v1/seka", api_key=KEY, max_retries=0)
    expected = here.chat(MESSAGES, max_new_tokens=12).text
    assert model.chat(MESSAGES, max_new_tokens=12).text == expected
    server.kill()
    with pytest.raises(RemoteError):
        model.chat(MESSAGES, max_new_tokens=12)
    server.start_by_our_command()
    again = model.chat(MESSAGES, max_new_tokens=12)
    assert (again.text, again.report.tokens_edited) == (expected, again.report.tokens_marked)
