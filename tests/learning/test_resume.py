"""A calibration that was killed goes on where it was, and ends as one that was not."""

import logging

import pytest
import torch
from tiny import random_bank, tiny_examples, tiny_model

from seka_rag.errors import SettingError
from seka_rag.hf.find import find_key_sites
from seka_rag.learning import resume
from seka_rag.learning.resume import Steps, remove_steps
from seka_rag.learning.trials import Bench, Candidate, Measure
from seka_rag.steering.seka import Seka


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama").eval()


def test_what_was_kept_is_not_computed_again(tmp_path):
    def never():
        raise AssertionError("computed again")

    bank = random_bank(tiny_model("llama"))
    for make in (lambda: {"x": [1, 2.5]}, never):
        assert Steps(tmp_path, {"seed": 1}).json("a", make) == {"x": [1, 2.5]}
    for tensors in (lambda: {"t": torch.arange(3)}, never):
        assert Steps(tmp_path, {"seed": 1}).tensors("b", tensors)["t"].tolist() == [0, 1, 2]
    for learned in (lambda: bank, never):
        assert Steps(tmp_path, {"seed": 1}).bank("c", learned).digest == bank.digest
    nothing = Steps(None, {})
    assert nothing.json("a", lambda: 3) == 3
    assert nothing.bank("c", lambda: bank) is bank
    assert nothing.read("b") is None


def test_a_bank_that_a_kill_left_half_written_is_learned_again(tmp_path):
    bank, part = random_bank(tiny_model("llama")), tmp_path / f"c{resume._BANK}" / ".part"
    Steps(tmp_path, {})
    part.mkdir(parents=True)
    (part / "bank.json").write_text("{")
    assert Steps(tmp_path, {}).bank("c", lambda: bank).digest == bank.digest
    assert Steps(tmp_path, {}).bank("c", lambda: pytest.fail("learned again")).digest == bank.digest


def test_other_settings_start_anew_and_say_so(tmp_path, caplog):
    folder = tmp_path / "run"
    Steps(folder, {"seed": 1, "budget": 0.3}).json("a", lambda: 1)
    (folder / ".a.step.json.5f").write_text("left by a kill")
    with caplog.at_level(logging.INFO):
        assert Steps(folder, {"seed": 1, "budget": 0.3}).json("a", lambda: 2) == 1
        assert "goes on with the 1 steps" in caplog.text
        assert Steps(folder, {"seed": 2, "budget": 0.3}).json("a", lambda: 2) == 2
    assert "other settings (seed): starts anew" in caplog.text
    assert sorted(p.name for p in folder.iterdir()) == ["a.step.json", "run.json"]
    remove_steps(folder)
    assert not folder.exists()
    remove_steps(folder)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SettingError, match="holds other files"):
        Steps(tmp_path, {})
    remove_steps(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    for file in (tmp_path / "thesis.txt", tmp_path / "thesis.txt" / "run"):
        with pytest.raises(SettingError, match=f"{file} is to hold steps"):
            Steps(file, {})


def test_a_trial_is_measured_once_for_each_method_bank_and_count(tmp_path, model, monkeypatch):
    sites, bank, other = find_key_sites(model), random_bank(model), random_bank(model, seed=1)
    bench = Bench(model, sites, tiny_examples(9, 1), tiny_examples(9, 2))
    some = [(Seka(gain=1.0), bank, None), (Seka(gain=2.0), bank, None), (Seka(gain=1.0), other, None)]
    some.append((Seka(gain=1.0), bank, 8))
    run = lambda: [Measure(bench, Steps(tmp_path, {}))(Candidate(m, b, "all"), n)[1] for m, b, n in some]  # noqa: E731
    first = run()
    monkeypatch.setattr(Bench, "measure", lambda *_: pytest.fail("measured again"))
    assert run() == first
    assert len({(t.margin, t.examples) for t in first}) == len(list(tmp_path.glob(f"trial-*{resume._JSON}")))
