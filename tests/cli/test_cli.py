"""The commands on a tiny model and real files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from seka_rag import ProjectionBank
from seka_rag.cli import app
from seka_rag.hf.packaged import PACKAGED
from seka_rag.learning.triples import write_triples

runner = CliRunner()


def run(*args, code=0):
    result = runner.invoke(app, [str(a) for a in args], env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == code, result.output + str(result.exception)
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    from tiny import demo_tokenizer, tiny_model

    folder = tmp_path_factory.mktemp("model")
    tiny_model("qwen3").save_pretrained(folder)
    demo_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("Ada moved to Lyon last year. Ada keeps a rabbit.")
    (folder / "b.md").write_text("# Club\n\nRobert trains for rowing.")
    (folder / "c.html").write_text("<html><body><p>Maud works as a tailor.</p></body></html>")
    return folder


def test_learn_from_templates_documents_and_triples(model_folder, docs, tmp_path):
    from seka_rag.demo.trials import demo_triples

    out = run("learn", "--model", model_folder, "--out", tmp_path / "t", "--n", 12, "--best", 0.5, "--gain", 0.7)
    assert "learned from" in out
    bank = ProjectionBank.load(tmp_path / "t")
    assert bank.suggested_gain == 0.7
    assert int((bank.ranks > 0).sum()) == 3
    write_triples(tmp_path / "x.jsonl", demo_triples(6))
    run("learn", "--model", model_folder, "--out", tmp_path / "x", "--triples", tmp_path / "x.jsonl", "--negative")
    both = ProjectionBank.load(tmp_path / "x")
    assert set(both.negative) == set(both.positive) != set()
    assert "not both" in run(
        "learn",
        "--model",
        model_folder,
        "--out",
        tmp_path / "y",
        "--triples",
        tmp_path / "x.jsonl",
        "--docs",
        docs,
        code=1,
    )


def test_statistics_collected_apart_are_merged(model_folder, tmp_path):
    from seka_rag.learning.tasks.lookup import template_triples

    triples, files = template_triples(40), []
    for i, part in enumerate((triples[:16], triples[16:])):
        write_triples(tmp_path / f"{i}.jsonl", part)
        files.append(tmp_path / f"{i}.safetensors")
        out = run("learn", "--model", model_folder, "--triples", tmp_path / f"{i}.jsonl", "--statistics-out", files[i])
        assert f"{len(part)} triples" in out
    settings = ("--best", 0.5, "--energy", 0.8, "--gain", 0.6, "--negative")
    run("merge", *files, "--out", tmp_path / "merged", *settings)
    run("learn", "--model", model_folder, "--n", 40, "--out", tmp_path / "whole", *settings)
    merged, whole = (ProjectionBank.load(tmp_path / name) for name in ("merged", "whole"))
    assert (merged.learning, merged.suggested_gain) == (whole.learning, whole.suggested_gain)
    assert all(torch.allclose(merged.projection(i), whole.projection(i), atol=1e-5) for i in whole.positive)
    assert set(merged.negative) == set(whole.negative) == set(whole.positive)
    assert "give --out" in run("learn", "--model", model_folder, code=1)
    assert "same statistics" in run("merge", files[0], files[0], "--out", tmp_path / "x", code=1)
    assert not (tmp_path / "x").exists()


def test_ask_learns_once_caches_and_answers(model_folder, docs, tmp_path, monkeypatch):
    monkeypatch.setenv("SEKA_RAG_CACHE", str(tmp_path / "cache"))
    first = run(
        "ask", "Where does Ada live?", "--docs", docs, "--model", model_folder, "--max-new-tokens", 3, "--compare"
    )
    assert "learning one from 200 templates" in first
    assert "answer:" in first
    assert "plain:" in first
    assert "a.txt" in first
    again = run(
        "ask", "Where does Ada live?", "--docs", docs, "--model", model_folder, "--max-new-tokens", 3, "--stream"
    )
    assert "learning one" not in again
    edited = int(again.split(" highlighted tokens")[0].split()[-3])
    assert edited > 0
    off = run("ask", "Where?", "--docs", docs, "--model", model_folder, "--max-new-tokens", 2, "--highlight", "off")
    assert "warning" in off


@pytest.mark.parametrize("command", ["ask", "learn", "calibrate", "bench"])
def test_a_device_that_is_not_there(command, docs, tmp_path):
    given = {
        "ask": ("Where?", "--docs", docs),
        "learn": ("--out", tmp_path / "bank"),
        "calibrate": ("--out", tmp_path / "bank"),
        "bench": ("fluency", "--out", tmp_path / "bench"),
    }[command]
    out = run(command, *given, "--model", "seka-demo", "--device", "gpu", code=1)
    assert "error: the model cannot run on the device 'gpu'" in out


def test_ask_gives_options_to_the_chat_template(docs, tmp_path, monkeypatch):
    from seka_rag.model.steered import SteeredModel

    model = SteeredModel.from_pretrained("seka-demo")
    template = "{% if style %}{{ style }} {{ brief }} {% endif %}" + (
        model.tokenizer.chat_template or "{{ messages[0]['content'] }}"
    )
    model.tokenizer.chat_template = template
    monkeypatch.setattr(SteeredModel, "from_pretrained", lambda *args, **options: model)
    given, ran = [], model._run
    monkeypatch.setattr(model, "_run", lambda call: given.extend(call.prompts) or ran(call))

    def ask(*options, code=0):
        return run("ask", "Where does Ada live?", "--docs", docs, "--max-new-tokens", 1, *options, code=code)

    ask("--template-option", "style=calm", "--template-option", "brief=true")
    ask()
    first, second = (model.tokenizer.decode(prompt.ids) for prompt in given)
    assert first.startswith(model.tokenizer.decode(model.tokenizer("calm True", add_special_tokens=False)["input_ids"]))
    assert "True" not in second
    assert "has no option 'mood'" in ask("--template-option", "mood=calm", code=1)
    assert "give NAME=VALUE" in ask("--template-option", "style", code=1)


def test_inspect_shows_identity_and_draws(model_folder, tmp_path, qwen3, make_bank):
    make_bank(qwen3, layers=[1, 2]).save(tmp_path / "bank")
    learned = run("inspect", PACKAGED["seka-demo"].bank)
    assert "mean rank" in learned
    assert "100% 6" in " ".join(learned.replace("│", " ").split())  # 6 heads of 8 have a gap
    out = run("inspect", tmp_path / "bank", "--picture", tmp_path / "bank.png")
    assert "qwen3" in out
    assert "head 1" in out
    assert (tmp_path / "bank.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("ask", "x", "--docs", "{tmp}/nowhere"), "nowhere"),
        (("ask", "x", "--docs", "{tmp}/empty"), "empty"),
        (("ask", "x", "--docs", "{tmp}/latin.txt", "--encoding", "utf-8"), "utf-8"),
        (("ask", "x", "--docs", "{docs}", "--model", "nobody/nothing"), "smollm2"),
        (("ask", "x", "--docs", "{docs}", "--model", "{model}", "--bank", "{tmp}/empty"), "not a bank"),
        (("ask", "x", "--docs", "{docs}", "--model", "{model}", "--bank", "{tmp}/bank"), "another model"),
        (("inspect", "{tmp}/nowhere"), "not a bank"),
        (("learn", "--model", "{model}", "--out", "{tmp}/o", "--triples", "{tmp}/bad.jsonl"), "bad.jsonl"),
    ],
)
def test_bad_input_is_one_clear_message(args, says, model_folder, docs, tmp_path, make_bank):
    from tiny import tiny_model

    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.txt").write_bytes("caf\xe9 in Lyon".encode("latin-1"))
    (tmp_path / "bad.jsonl").write_text(json.dumps({"context": "x"}) + "\n")
    make_bank(tiny_model("llama")).save(tmp_path / "bank")
    filled = [a.format(tmp=tmp_path, docs=docs, model=model_folder) for a in args]
    out = run(*filled, code=1)
    assert "error:" in out
    assert says.lower() in out.lower()
    assert "Traceback" not in out


@pytest.mark.parametrize("command", ["", *(c.callback.__name__ for c in app.registered_commands)])
def test_help_reads_well(command):
    out = run(*([command] if command else []), "--help")
    assert "Usage" in out
    assert len(out) > 150


def test_experts_are_learned_inspected_and_used(model_folder, docs, tmp_path):
    from seka_rag import ExpertBank
    from seka_rag.demo.trials import demo_triples

    write_triples(tmp_path / "mine.jsonl", demo_triples(6))
    out = run(
        "learn", "--model", model_folder, "--out", tmp_path / "e", "--experts", "lookup, needle", "--n", 6,
        "--expert", f"mine={tmp_path / 'mine.jsonl'}", "--gain", 0.3,
    )  # fmt: skip
    assert "lookup, needle, mine" in out
    bank = ExpertBank.load(tmp_path / "e")
    assert bank.suggested_gain == pytest.approx(0.3)
    shown = run(
        "inspect", tmp_path / "e", "--query", "Where does Ada live?", "--query", "What does Robert do?",
        "--model", model_folder, "--picture", tmp_path / "which.png",
    )  # fmt: skip
    assert "expert needle, gain 1" in shown
    assert "Where does Ada live?" in shown
    assert (tmp_path / "which.png").read_bytes()[:4] == b"\x89PNG"
    asked = run("ask", "Where does Ada live?", "--docs", docs, "--model", model_folder, "--bank", tmp_path / "e")
    assert "AdaSeka, gain 0.3" in asked
    assert "experts lookup" in asked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experts", "rhyme"], "no task rhyme; there are lookup"),
        (["--expert", "mine"], "write NAME=FILE"),
        (["--experts", "lookup", "--expert", "lookup=x.jsonl"], "there is an expert 'lookup' already"),
        (["--expert", "mine=nowhere.jsonl"], "cannot read triples"),
        (["--experts", "lookup", "--triples", "x.jsonl"], "not as --triples"),
    ],
)
def test_bad_experts(model_folder, tmp_path, arguments, message):
    assert message in run("learn", "--model", model_folder, "--out", tmp_path / "e", *arguments, code=1)


def test_bad_inspections(model_folder, tmp_path, qwen3, make_bank):
    from seka_rag import ExpertBank

    one = make_bank(qwen3)
    one.save(tmp_path / "one")
    ExpertBank({"a": one}).save(tmp_path / "some")
    assert "--query is for experts" in run("inspect", tmp_path / "one", "--query", "x", code=1)
    assert "--query needs --model" in run("inspect", tmp_path / "some", "--query", "x", code=1)
    assert "give --query and --model" in run("inspect", tmp_path / "some", "--picture", tmp_path / "x.png", code=1)


def test_bad_options_are_noticed_before_the_work(model_folder, docs, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("mine")
    assert "holds other files" in run("learn", "--model", "nowhere", "--out", full, code=1)
    (tmp_path / "experts" / "needle").mkdir(parents=True)
    (tmp_path / "experts" / "needle" / "bank.json").write_text("{}")
    assert "holds other files (needle/bank.json)" in run(
        "learn", "--model", "nowhere", "--experts", "lookup", "--n", 6, "--out", tmp_path / "experts", code=1
    )
    for option, value in (("--energy", 1.5), ("--best", 0), ("--gain", "nan")):
        assert f"{option[2:]}={value}" in run(
            "learn", "--model", "nowhere", "--out", tmp_path / "s", option, value, code=1
        )
    assert "is for one bank" in run(
        "learn", "--model", "nowhere", "--experts", "lookup", "--statistics-out", tmp_path / "s", code=1
    )
    for command in (("learn", "--statistics-out"), ("demo", "--out"), ("demo", "--json")):
        assert "is a directory" in run(command[0], "--model", "nowhere", command[1], ".", code=2)
    assert "gain=nan" in run("ask", "Where?", "--docs", docs, "--model", "seka-demo", "--gain", "nan", code=1)
    run("learn", "--model", model_folder, "--out", tmp_path / "b", "--n", 6)
    assert ".png, .svg or .pdf" in run("inspect", tmp_path / "b", "--picture", tmp_path / "p.xyz", code=1)
    assert "there is no folder" in run("inspect", tmp_path / "b", "--picture", tmp_path / "no" / "p.png", code=1)


def test_version():
    from seka_rag import __version__

    assert run("--version") == f"seka-rag {__version__}"


def test_documents_that_give_fewer_triples_say_so(model_folder, tmp_path):
    from seka_rag.demo.run import documents_folder

    options = ("learn", "--model", model_folder, "--docs", documents_folder(), "--out", tmp_path / "d", "--n")
    out = run(*options, 500)
    made = ProjectionBank.load(tmp_path / "d").learning
    assert f"the documents give {made.triples + made.skipped} triples, not 500" in out
    assert "the documents give" not in run(*options, 2)


def test_learn_names_and_leaves_out_what_it_cannot_read(model_folder, tmp_path):
    from seka_rag.demo.run import documents_folder

    docs = Path(shutil.copytree(documents_folder(), tmp_path / "docs"))
    (docs / "broken.pdf").write_bytes(b"%PDF-1.4 broken")
    arguments = ("learn", "--model", model_folder, "--docs", docs, "--n", 2)
    out = run(*arguments, "--out", tmp_path / "d")
    assert f"warning: left out: {docs}/broken.pdf is not a readable PDF" in out
    learning = ProjectionBank.load(tmp_path / "d").learning
    assert learning.triples + learning.skipped == 2
    out = run(*arguments, "--out", tmp_path / "s", "--strict", code=1)
    assert "error:" in out
    assert "broken.pdf" in out
    assert not (tmp_path / "s").exists()


def test_ask_names_and_leaves_out_what_it_cannot_read(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "good.txt").write_text("The house of Alec is in Lyon.")
    (folder / "old.txt").write_bytes("Die Fähre ist grün – täglich.".encode("cp1252"))
    (folder / "empty.md").write_text(" \n")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 broken")
    (folder / "link.txt").symlink_to("/etc/hostname")
    arguments = ("ask", "Where is the house of Alec?", "--docs", folder, "--model", "seka-demo", "--max-new-tokens", 2)
    out = run(*arguments)
    for said in ("empty.md has no text", "broken.pdf is not a readable PDF", "link.txt leads out of the folder"):
        assert f"warning: left out: {folder}/{said}" in out
    assert "answer:" in out
    assert out.count("left out") == 3
    out = run(*arguments, "--strict", code=1)
    assert "error:" in out
    assert "broken.pdf is not a readable PDF" in out
    assert f"warning: skipped: {folder}/link.txt leads out of the folder" in out
    assert "UserWarning" not in out
    assert "Fähre ist grün" in run("ask", "Wie ist die Fähre?", *arguments[2:])
