"""What a folder keeps of a run, and of which model it is."""

import pytest
from scripted import Scripted, of_file, plain_record
from tiny import demo_tokenizer, tiny_model

from seka_rag.bench import runner
from seka_rag.bench.methods import FIRST
from seka_rag.bench.runner import PLAIN, Subject, run
from seka_rag.bench.tasks import TASKS, base
from seka_rag.bench.tasks.base import Source
from seka_rag.errors import SettingError
from seka_rag.learning.tasks.lookup import template_triples
from seka_rag.model.steered import SteeredModel


@pytest.fixture
def tuned():
    """The scripted model by its name, of other weights."""
    model = Scripted()
    model.hf_model = tiny_model("llama", seed=1)
    return model


def test_what_is_known_is_asked_again_of_other_weights_and_of_facts_that_are_not_there(tmp_path, tuned, monkeypatch):
    asked = []
    monkeypatch.setattr(base, "known_facts", lambda model, facts: asked.append(model) or facts)
    first = Scripted()
    known = [Source(model, tmp_path, limit=2).known for model in (first, first, tuned)]
    assert asked == [first, tuned]
    assert known[0] == known[1]
    (path,) = tmp_path.glob("known-*.json")
    path.write_text(path.read_text().replace(known[0][0].id, "no such fact"))
    assert Source(tuned, tmp_path, limit=2).known == known[0]
    assert asked == [first, tuned, tuned]


def test_answers_of_other_weights_are_another_run(tmp_path, tuned):
    records = of_file(tmp_path, [plain_record("Ann", ["Ann lives in Lyon."], ["Lyon"], 0)])
    items = TASKS["conflict-rag"].items(records)
    run("conflict-rag", Subject(Scripted(), tmp_path), items, [PLAIN])
    with pytest.raises(SettingError, match=r"is of another run \(weights: "):
        run("conflict-rag", Subject(tuned, tmp_path), items, [PLAIN])


def test_a_bank_that_was_learned_for_another_model_is_learned_again(tmp_path, monkeypatch):
    first, tuned = (SteeredModel(tiny_model("qwen3", seed=i), demo_tokenizer(), name="tiny") for i in range(2))
    monkeypatch.setattr(runner, "template_triples", lambda n: template_triples(3))
    digests = [Subject(model, tmp_path).of(FIRST).bank.digest for model in (first, first, tuned, tuned)]
    assert digests[0] == digests[1] != digests[2] == digests[3]
