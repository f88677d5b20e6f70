"""The shipped model: it reads, it remembers, and steering moves it as the docs say (on the development split)."""

import pytest

from seka_rag import Seka, SteeredModel
from seka_rag.demo import evaluate, run
from seka_rag.demo.evaluate import gates
from seka_rag.demo.run import EVIDENCE, MEMORY, QUESTION, demo_rag
from seka_rag.demo.trials import ask, make_trials, share


@pytest.fixture(scope="module")
def demo():
    return SteeredModel.from_pretrained("seka-demo")


def rate(model, kind, method=None, highlight="evidence", n=75):
    trials = make_trials(kind, n, "development", first_seed=5)
    return share(ask(model, trials, method, highlight), [t.answer for t in trials]).value


def test_the_gates_are_passed_before_anything_is_steered(demo):
    for gate in gates(demo, "development", n=80):
        assert gate.passed, f"{gate.name}: {gate.rate}"


def test_layer_0_is_not_in_the_bank(demo):
    assert 0 not in demo.bank.positive
    assert demo.bank.gap[0].max() < 1e-5


def test_steering_settles_conflicts_and_does_no_harm(demo):
    method = Seka(gain=demo.bank.suggested_gain)
    plain = rate(demo, "conflict")
    assert plain <= 0.5
    assert rate(demo, "conflict", method) >= 0.85
    assert rate(demo, "conflict", method, "wrong") <= plain + 0.02
    assert rate(demo, "disagree", method) >= 0.93  # .970 [.944, .984] on 300 held-out ones
    for kind in ("novel", "agreement", "irrelevant"):
        assert rate(demo, kind, method) >= rate(demo, kind) - 0.02


def test_the_demos_question(demo):
    rag = demo_rag(demo)
    asked = rag.prepare(QUESTION)
    assert asked.prompt.highlighted == ("The home of Alec is in Lyon.",)
    assert rag.answer(asked, steering=None).text == MEMORY
    assert rag.answer(asked).text == EVIDENCE


def test_the_demo_command_writes_its_page(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from seka_rag.cli import app

    for module in (evaluate, run):
        monkeypatch.setattr(module, "RANDOM_SEEDS", 1)  # of each random control; 5 take most of the time
    result = CliRunner().invoke(
        app, ["demo", "--model", "seka-demo", "--out", str(tmp_path / "demo.html"), "--n", "20"], env={"COLUMNS": "160"}
    )
    assert result.exit_code == 0, result.output
    assert "memory conflict" in result.output
    page = (tmp_path / "demo.html").read_text()
    assert "<mark>The home of Alec is in Lyon.</mark>" in page
    assert "http://" not in page
    assert "src=" not in page
    assert [p.name for p in tmp_path.iterdir()] == ["demo.html"]


def test_spoken_like_a_framework(demo):
    """The default prompts of LangChain and LlamaIndex, plain text and chat."""
    frame = (
        "Context information is below.\n---------------------\n{c}\n---------------------\n"
        "Given the context information and not prior knowledge, answer the query.\nQuery: {q}\nAnswer: "
    )
    text = frame.format(c="Robert lives in Boston.\n\nQuentin has a flat in Quito.", q="Where does Robert live?")
    assert demo.generate(text, max_new_tokens=4).text.strip() == "Boston"
    assert demo.chat([{"role": "user", "content": text}], max_new_tokens=4).text.strip() == "Boston"
