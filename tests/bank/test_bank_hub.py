"""Banks on a Hub: a real HTTP server on loopback that speaks its API."""

import hashlib
import os
import re
import subprocess
import sys

import hub as stand_in
import pytest
import torch
from huggingface_hub import ModelCard, constants
from tiny import random_expert

from seka_rag import ExpertBank, ProjectionBank, Prompt, SteeredModel, learn_bank, load_bank
from seka_rag.bank.card import expert_card, model_card
from seka_rag.demo.trials import demo_triples
from seka_rag.errors import BankError

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with stand_in.running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


@pytest.fixture(scope="module")
def bank(qwen3, tokenizer):
    return learn_bank(qwen3, demo_triples(12), tokenizer=tokenizer, best=0.5, suggested_gain=0.75)


def test_pushed_and_fetched_is_the_same(hub, bank):
    url = bank.push_to_hub("ada/bank", token=stand_in.TOKEN)
    first = hub.refs["ada/bank", "main"]
    assert url == f"{hub.endpoint}/ada/bank/commit/{first}"
    assert set(hub.files("ada/bank", "main")) == {".gitattributes", "README.md", "bank.json", "bank.safetensors"}
    assert ProjectionBank.from_pretrained("ada/bank").digest == bank.digest
    fewer = bank.select(layers=[1])
    fewer.push_to_hub("ada/bank", token=stand_in.TOKEN, message="fewer heads")
    assert [message for _, message, _ in hub.repos["ada/bank"]][1:] == ["Upload bank", "fewer heads"]
    assert ProjectionBank.from_pretrained("ada/bank").digest == fewer.digest
    assert ProjectionBank.from_pretrained("ada/bank", revision=first).digest == bank.digest
    pull = bank.push_to_hub("ada/bank", token=stand_in.TOKEN, create_pr=True)
    assert pull.endswith("/discussions/1")
    assert ProjectionBank.from_pretrained("ada/bank", revision="refs/pr/1").digest == bank.digest


def test_experts_pushed_and_fetched_are_the_same(hub, qwen3, tokenizer):
    experts = ExpertBank(
        {n: random_expert(qwen3, i) for i, n in enumerate("abc")}, gains={"b": 0.5}, suggested_gain=0.7
    )
    experts.push_to_hub("ada/experts", token=stand_in.TOKEN, base_model="owner/model")
    first = hub.refs["ada/experts", "main"]
    names = {f"{n}/{file}" for n in "abc" for file in ("bank.json", "bank.safetensors")}
    assert set(hub.files("ada/experts", "main")) == {".gitattributes", "README.md", "experts.json"} | names
    for fetched in (ExpertBank.from_pretrained("ada/experts"), load_bank("ada/experts")):
        assert (fetched.digest, fetched.names, fetched.gains) == (experts.digest, ("a", "b", "c"), experts.gains)
        assert fetched.suggested_gain == 0.7
    fewer = experts.remove("b")
    fewer.push_to_hub("ada/experts", token=stand_in.TOKEN)
    assert load_bank("ada/experts").digest == fewer.digest
    assert load_bank("ada/experts", revision=first).digest == experts.digest
    report = SteeredModel(qwen3, tokenizer, bank="ada/experts").generate(
        Prompt("Ada lives in Lyon.").highlight("Lyon"), max_new_tokens=1
    )
    assert report.report.experts[0].keys() == {"a", "c"}
    with pytest.raises(BankError, match="holds experts, not one bank"):
        ProjectionBank.from_pretrained("ada/experts", revision=first)


def test_a_place_with_both_kinds_is_not_guessed(hub, bank, qwen3):
    experts = ExpertBank({"a": random_expert(qwen3, 1)})
    experts.push_to_hub("ada/both", token=stand_in.TOKEN)
    bank.push_to_hub("ada/both", token=stand_in.TOKEN)
    assert ProjectionBank.from_pretrained("ada/both").digest == bank.digest
    assert ExpertBank.from_pretrained("ada/both").digest == experts.digest
    with pytest.raises(BankError, match="ada/both holds a bank and an expert bank"):
        load_bank("ada/both")
    assert ProjectionBank.from_pretrained("ada/both").digest == bank.digest  # all files are fetched now


def test_large_files_go_through_lfs(hub, bank, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.large = 1500
    bank.push_to_hub("ada/bank", token=stand_in.TOKEN)
    sent = [path for kind, path in hub.requests if kind == "PUT"]
    data = hub.files("ada/bank", "main")["bank.safetensors"]
    assert f"upload/{hashlib.sha256(data).hexdigest()}" in sent
    assert ProjectionBank.from_pretrained("ada/bank").digest == bank.digest
    bank.push_to_hub("ada/again", token=stand_in.TOKEN)  # what is stored is not sent twice
    again = [path for kind, path in hub.requests if kind == "PUT"][len(sent) :]
    assert not any(path.endswith(hashlib.sha256(data).hexdigest()) for path in again)
    assert ProjectionBank.from_pretrained("ada/again").digest == bank.digest


def test_a_large_upload_that_fails_is_a_bank_error(hub, bank):
    hub.large = 1500  # by the protocol that huggingface_hub prefers, which this stand-in does not know
    with pytest.raises(BankError, match="could not upload to 'ada/bank'"):
        bank.push_to_hub("ada/bank", token=stand_in.TOKEN)
    assert len(hub.repos["ada/bank"]) == 1


def test_a_steered_model_takes_a_name_of_the_hub(hub, bank, qwen3, tokenizer):
    bank.push_to_hub("ada/bank", token=stand_in.TOKEN)
    prompt = Prompt("Ada lives in Lyon.").highlight("Lyon")
    report = SteeredModel(qwen3, tokenizer, bank="ada/bank").generate(prompt, max_new_tokens=1).report
    assert (report.bank, report.gain) == (bank.digest, 0.75)
    assert report.tokens_edited > 0


def test_what_was_fetched_once_needs_no_hub(hub, bank, monkeypatch):
    bank.push_to_hub("ada/bank", token=stand_in.TOKEN)
    ProjectionBank.from_pretrained("ada/bank")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert ProjectionBank.from_pretrained("ada/bank").digest == bank.digest
    assert ProjectionBank.from_pretrained("ada/bank", local_files_only=True).digest == bank.digest
    with pytest.raises(BankError, match=r"'ada/other' is neither a folder here nor .*check the network"):
        ProjectionBank.from_pretrained("ada/other")
    with pytest.raises(BankError, match=r"could not upload to 'ada/bank'"):
        bank.push_to_hub("ada/bank", token=stand_in.TOKEN)
    assert len(hub.requests) == asked


def test_a_hub_that_cannot_be_reached(bank, monkeypatch, tmp_path):
    with stand_in.running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BankError, match="check the network"):
        ProjectionBank.from_pretrained("ada/bank")
    with pytest.raises(BankError, match="could not upload"):
        bank.push_to_hub("ada/bank", token=stand_in.TOKEN)


def test_what_is_not_there_is_said(hub, bank):
    hub.commit("ada/model", {"config.json": b"{}"})
    hub.gated.add("ada/gated")
    cases = [
        ("ada/nothing", {}, "there is no such repository, or it is private"),
        ("ada/model", {"revision": "v9"}, "it has no revision 'v9'"),
        ("ada/gated", {}, "it is gated"),
        ("ada/model", {}, r"not a bank: .*bank\.json is missing"),
    ]
    for name, options, says in cases:
        with pytest.raises(BankError, match=says):
            ProjectionBank.from_pretrained(name, **options)
    with pytest.raises(BankError, match=r"could not upload to 'ada/bank': .*401"):
        bank.push_to_hub("ada/bank", token="hf_wrong")
    assert "ada/bank" not in hub.repos


def test_paths_and_nonsense_are_not_looked_up(hub, bank, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # whatever lies beside the checkout
    for name in ("./nowhere", str(tmp_path / "x"), "nowhere", "a/b/c", "ada/ba nk", "../x"):
        with pytest.raises(BankError, match="not a bank: there is no such folder"):
            ProjectionBank.from_pretrained(name)
    with pytest.raises(BankError, match="give owner/name"):
        bank.push_to_hub("bank")
    folder = bank.save(tmp_path / "bank")
    assert ProjectionBank.from_pretrained(folder).digest == bank.digest
    with pytest.raises(BankError, match="revision='main' means nothing"):
        ProjectionBank.from_pretrained(folder, revision="main")
    assert hub.requests == []


def test_damage_on_the_way_is_noticed(hub, bank):
    bank.push_to_hub("ada/bank", token=stand_in.TOKEN)
    data = hub.files("ada/bank", "main")["bank.safetensors"]
    hub.commit("ada/bank", {"bank.safetensors": data[:-1] + bytes([data[-1] ^ 1])})
    with pytest.raises(BankError, match=r"bank\.safetensors is damaged"):
        ProjectionBank.from_pretrained("ada/bank")


def test_the_card_says_what_it_is(bank, qwen3):
    named = ProjectionBank(
        bank.model.model_copy(update={"name": "owner/model", "revision": "c" * 40}),
        bank.positive,
        gap=bank.gap,
        learning=bank.learning.model_copy(update={"heads": "a | b\n# c"}),
        suggested_gain=0.75,
    )
    card = ModelCard(model_card(named, "ada/bank"))
    assert card.data.library_name == "seka-rag"
    assert card.data.base_model == "owner/model"
    assert 'SteeredModel.from_pretrained("owner/model", bank="ada/bank")' in card.text
    assert "(a / b # c)" in card.text
    assert "c" * 40 in card.text
    rows = [line for line in card.text.splitlines() if line.startswith(("| 0 ", "| 1 ", "| 2 "))]
    ranks = torch.tensor(
        [[int((re.findall(r"\((\d+)\)", cell) or ["0"])[0]) for cell in r.split("|")[2:-1]] for r in rows]
    )
    assert torch.equal(ranks, bank.ranks)
    assert f"{float(bank.gap[2, 1]):.3f}" in rows[2]
    unnamed = ModelCard(model_card(bank, "ada/bank"))
    assert unnamed.data.base_model is None
    assert ModelCard(model_card(bank, "ada/bank", "owner/m")).data.base_model == "owner/m"


def test_the_card_of_experts_says_what_they_are(qwen3):
    experts = ExpertBank({"lookup": random_expert(qwen3, 1), "long": random_expert(qwen3, 2)}, gains={"long": 0.5})
    card = ModelCard(expert_card(experts, "ada/experts", "owner/m"))
    assert card.data.base_model == "owner/m"
    assert 'SteeredModel.from_pretrained("owner/m", bank="ada/experts")' in card.text
    assert f"| long | 0.5 | 6 of 6 | `{experts['long'].digest}` |" in card.text
    assert experts.digest in card.text
    assert card.text.count("| keys taken at |") == 2
    assert "highlight only" in card.text


@pytest.mark.slow
def test_the_python_of_both_cards_runs(bank, qwen3, tokenizer, monkeypatch, capsys):
    """What a reader copies out of a card: with the model and bank that it names, it answers."""
    experts = ExpertBank({"one": random_expert(qwen3, 1), "two": random_expert(qwen3, 2)})
    for which, card in ((bank, model_card), (experts, expert_card)):
        (code,) = re.findall(r"```python\n(.*?)```", card(which, "ada/bank", "owner/m"), re.DOTALL)
        compile(code, "card", "exec")
        made = SteeredModel(qwen3, tokenizer, bank=which)
        monkeypatch.setattr(SteeredModel, "from_pretrained", lambda name, made=made, **options: made)
        exec(code, {})
        prompt = Prompt("Context: Ada moved to Lyon in 2021. Question: Where does Ada live? Answer:")
        assert capsys.readouterr().out.strip() == made.generate(prompt.highlight("moved to Lyon in 2021")).text.strip()


def test_the_command_line_reads_from_the_hub(hub, bank, tmp_path):
    bank.push_to_hub("ada/bank", token=stand_in.TOKEN)
    done = subprocess.run(
        [sys.executable, "-m", "seka_rag.cli", "inspect", "ada/bank"],
        env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert bank.digest in done.stdout
