"""The command ``calibrate``: it goes on where it was, and leaves nothing behind but the bank."""

import importlib

import pytest
from typer.testing import CliRunner

from seka_rag import ProjectionBank, SteeredModel
from seka_rag.bank.header import Answered, Calibration, KindAnswered, Trial
from seka_rag.cli import app
from seka_rag.learning.resume import Steps

calibrating = importlib.import_module("seka_rag.learning.calibrate")  # the name is also that of its function
runner = CliRunner()


@pytest.mark.parametrize("out", ["bank", "."])
def test_steps_are_beside_the_bank_until_it_is_saved(tmp_path, monkeypatch, out):
    folders = []
    killed = True

    def calibrate(hf_model, bank, settings, *, tokenizer, progress, unfinished) -> ProjectionBank:
        folders.append(unfinished)
        assert Steps(unfinished, settings.model_dump()).json("a", lambda: len(folders)) == 1
        if killed:
            raise KeyboardInterrupt
        found = SteeredModel.from_pretrained("seka-demo").bank
        assert isinstance(found, ProjectionBank)
        trial = Trial(steering=None, heads="none", examples=64, following=0.5, margin=0, disturbance=0)
        kind = KindAnswered(kind="novel", n=9, right=7, won=4, lost=1, repetition=0.25, stopped=9)
        steering = {"method": "KeyVector", "gain": 0.7, "fade": "sentence"}
        answered = Answered(
            steering=steering,
            heads="all",
            disturbance=0.1,
            gain=1 / 3,
            harm="agreement: lost",
            kinds=(kind,),
            chosen=True,
        )
        record = Calibration(
            budget=0.3, data="", seed=0, trials=(trial,), known=247, recalled=150, trained=182, answers=(answered,)
        )
        return found.changed(calibration=record)

    monkeypatch.setattr(calibrating, "calibrate", calibrate)
    place = tmp_path / "bank" if out == "." else tmp_path
    place.mkdir(exist_ok=True)
    monkeypatch.chdir(place)
    command = ["calibrate", "--model", "seka-demo", "--out", out]
    assert runner.invoke(app, command).exit_code != 0
    assert folders == [tmp_path / "bank.unfinished"]
    assert folders[0].exists()
    killed = False
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert [p.name for p in tmp_path.iterdir()] == ["bank"]
    assert "unsteered" not in result.output  # a model that is loaded to be calibrated needs no bank
    assert "247 facts known, 150 of them answered; 182 for gradients and training only" in result.output
    shown = "".join(result.output.split())
    for cell in ("7/9", "+4-1", "+0.333", "0.250", "KeyVector", "gain=0.7", "fade=sentence", "harm:"):
        assert cell in shown
    assert "0.500 [0.38, 0.62]" in " ".join(result.output.split())  # the 95% interval of 32 of 64


@pytest.mark.parametrize("option", [["--examples", "4"], ["--budget", "-1"], ["--steps", "0"], ["--tune", "weights"]])
def test_settings_that_mean_nothing(tmp_path, option):
    result = runner.invoke(app, ["calibrate", "--model", "seka-demo", "--out", str(tmp_path / "bank"), *option])
    assert result.exit_code in (1, 2)
    assert option[0] in result.output or option[1] in result.output
