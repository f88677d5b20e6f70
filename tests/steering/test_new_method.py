"""A method that is added from outside, in a few lines, works wherever methods do; so does one that edits no keys."""

from contextlib import contextmanager
from typing import ClassVar

import pytest
import torch
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_seka import ChatSeka
from llama_index.llms.seka import SekaLLM
from serving import running
from tiny import demo_tokenizer, random_bank, tiny_model
from typer.testing import CliRunner

from seka_rag import (
    KeyEditing,
    KeyScaling,
    ProjectionBank,
    Prompt,
    RemoteModel,
    SteeredModel,
    SteeringMethod,
    highlighting,
    register,
    steer,
)
from seka_rag.cli import app
from seka_rag.errors import BankError, SettingError, SteeringError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.scores import ScoreBias, biasing
from seka_rag.ops.keys import KeyEdit
from seka_rag.steering.registry import METHODS, as_steering

PROMPT = Prompt("Astrid moved to Lyon last year. Where does Astrid live?").highlight("moved to Lyon")
MESSAGES = [{"role": "user", "content": PROMPT}]


class Push(KeyEditing):
    """Key scaling under another name, so that its answers are known."""

    strength_field: ClassVar[str] = "push"
    push: float

    def edits(self, bank, sites):
        heads = torch.arange(sites.heads)
        return {i: KeyEdit(heads, self.push * torch.eye(sites.head_dim).repeat(len(heads), 1, 1)) for i in bank.layers}


class Glare(SteeringMethod):
    """An attention bias, which edits no key and needs no bank."""

    bank_type: ClassVar[type | None] = None
    strength_field: ClassVar[str] = "bias"
    bias: float

    @contextmanager
    def attach(self, hf_model, bank, marks, report, prepared=None):
        sites = find_key_sites(hf_model)
        with biasing(
            hf_model, sites, marks, {i: ScoreBias(torch.full((sites.heads,), self.bias)) for i in sites.modules}
        ):
            yield
        report.tokens_edited = len(marks)


@pytest.fixture(autouse=True, scope="module")
def _registered():
    register(Push)
    register(Glare)
    yield
    del METHODS["Push"], METHODS["Glare"]


@pytest.fixture(scope="module")
def model():
    hf_model = tiny_model("qwen3")
    given = random_bank(hf_model)
    bank = ProjectionBank(given.model, given.positive, steering={"method": "Push", "push": 2.0})
    return SteeredModel(hf_model, demo_tokenizer(), bank=bank, name="tiny")


@pytest.fixture(scope="module")
def eager():
    hf_model = tiny_model("qwen3")
    hf_model.set_attn_implementation("eager")
    return SteeredModel(hf_model, demo_tokenizer(), steering=Glare(bias=4.0), name="eager")


def agrees(report):
    report = report if isinstance(report, dict) else report.as_dict()
    return (report["method"], report["gain"], report["layers"], report["heads"]) == ("Push", 2.0, [0, 1, 2], 6)


@pytest.fixture(scope="module")
def wanted(model):
    answer = model.chat(MESSAGES, steering=KeyScaling(gain=2.0), max_new_tokens=6)
    assert answer.text != model.chat(MESSAGES, steering=None, max_new_tokens=6).text
    return answer


def test_the_model_takes_what_the_bank_suggests(model, wanted, tmp_path):
    answer = model.chat(MESSAGES, max_new_tokens=6)
    assert answer.text == wanted.text
    assert agrees(answer.report)
    assert model.chat(MESSAGES, steering={"method": "Push", "push": 2.0}, max_new_tokens=6).text == wanted.text
    again = SteeredModel(model.hf_model, model.tokenizer, bank=model.bank.save(tmp_path / "bank"))
    assert again.chat(MESSAGES, max_new_tokens=6).text == wanted.text
    prefix = model.prefill(PROMPT)
    assert model.generate(" Lyon?", prefix=prefix, max_new_tokens=4).report.method == "Push"


def test_the_command_line(model, tmp_path):
    model.hf_model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    model.bank.save(tmp_path / "bank")
    (tmp_path / "a.txt").write_text("Astrid moved to Lyon last year.")

    def ask(*options):
        where = ["--docs", tmp_path / "a.txt", "--model", tmp_path / "model", "--bank", tmp_path / "bank"]
        given = ["ask", "Where does Astrid live?", "--max-new-tokens", "4", *where, *options]
        done = CliRunner().invoke(app, [str(g) for g in given], env={"COLUMNS": "300", "TERM": "dumb"})
        assert done.exit_code == 0, done.output + str(done.exception)
        return " ".join(done.output.split())

    assert "Push, gain 2: " in ask()
    assert "Push, gain 0.5: " in ask("--gain", "0.5")
    assert "the push is 0: the model runs unsteered" in ask("--gain", "0")


@pytest.mark.parametrize("settings", [{}, {"steering": {"method": "Push", "push": 2.0}}])
def test_langchain(model, wanted, settings):
    chat = ChatSeka(steered_model=model, max_tokens=6, **settings)
    with highlighting([Document("moved to Lyon")]):
        answer = chat.invoke([HumanMessage(PROMPT.text)])
    assert answer.content == wanted.text
    assert agrees(answer.response_metadata["seka"])


@pytest.mark.parametrize("settings", [{}, {"steering": {"method": "Push", "push": 2.0}}])
def test_llamaindex(model, wanted, settings):
    llm = SekaLLM(steered_model=model, max_tokens=6, is_chat_model=True, **settings)
    from llama_index.core.llms import ChatMessage

    with highlighting(["moved to Lyon"]):
        answer = llm.chat([ChatMessage(role="user", content=PROMPT.text)])
    assert answer.message.content == wanted.text
    assert agrees(answer.message.additional_kwargs["seka"])


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_the_server(model, wanted):
    with running(model, max_gain=3.0) as url:
        remote = RemoteModel(url)
        for steering in ("auto", Push(push=2.0), {"method": "Push", "push": 2.0}):
            answer = remote.chat(MESSAGES, steering=steering, max_new_tokens=6)
            assert answer.text == wanted.text
            assert agrees(answer.report)
        with pytest.raises(Exception, match="gain 4 with weight 1"):
            remote.chat(MESSAGES, steering=Push(push=4.0), max_new_tokens=1)


def test_a_method_that_edits_no_keys(eager):
    plain = eager.generate(PROMPT, steering=None, max_new_tokens=6)
    steered = eager.generate(PROMPT, max_new_tokens=6)
    assert steered.text != plain.text
    assert (steered.report.method, steered.report.gain, steered.report.bank) == ("Glare", 4.0, None)
    assert steered.report.tokens_edited == steered.report.tokens_marked > 0
    assert eager.generate(PROMPT, steering=Glare(bias=0.0), max_new_tokens=6).text == plain.text
    batch = eager.generate([PROMPT, "Where does Boris live, who is he, and what does he do?"], max_new_tokens=6)
    assert batch[0].text == steered.text
    tokens = eager.tokenize(PROMPT)
    with steer(eager.hf_model, None, torch.tensor([tokens.weights]), Glare(bias=4.0)) as report:
        out = eager.hf_model.generate(torch.tensor([tokens.ids]), max_new_tokens=6, do_sample=False)
    assert eager.tokenizer.decode(out[0, len(tokens) :], skip_special_tokens=True) == steered.text
    assert report.tokens_edited == report.tokens_marked
    with pytest.raises(SteeringError, match="does not change the keys"):
        eager.prefill(PROMPT)


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_method_that_edits_no_keys_on_the_server(eager):
    with running(eager) as url:
        answer = RemoteModel(url).generate(PROMPT, max_new_tokens=6)
        assert answer.text == eager.generate(PROMPT, max_new_tokens=6).text
        assert answer.report.method == "Glare"


def test_names_and_banks_are_checked(model):
    assert register(Push) is Push
    with pytest.raises(SettingError, match="already"):
        register(type("Seka", (Push,), {}))
    assert as_steering(Push(push=1.0, layers=(1,)).as_dict()) == Push(push=1.0, layers=(1,))
    with pytest.raises(ValueError, match="finite|valid"):
        KeyScaling(gain=1.0).with_strength(float("nan"))
    bare = SteeredModel(model.hf_model, model.tokenizer)
    with pytest.raises(SteeringError, match="has no bank"):
        bare.generate(PROMPT, steering=Push(push=1.0))
    with (
        pytest.raises(BankError, match="give a loaded bank"),
        steer(model.hf_model, None, torch.ones(1, 3), Push(push=1)),
    ):
        pass
