"""The demo's questions over documents, and what it writes."""

import json

import pytest

from seka_rag.bench.rates import Rate
from seka_rag.demo.figures import Figure, write_rates
from seka_rag.demo.library import QUESTIONS, InOrder, library_folder
from seka_rag.questions.answers import contains_answer


@pytest.mark.parametrize("asked", QUESTIONS, ids=lambda asked: asked.question)
def test_the_documents_answer_and_retrieval_finds_it(asked):
    passages = InOrder(asked.passages)(asked.question)
    assert 0 < len(passages) <= asked.passages
    everything = " ".join(path.read_text() for path in library_folder().iterdir())
    if asked.answers:
        assert any(contains_answer(p.text, asked.answers) for p in passages)
        assert not any(
            contains_answer(everything, [other]) for other in asked.remembered if other not in ("24", "real")
        )
    assert len({p.text for p in passages}) == len(passages)


def test_evidence_may_stand_in_the_middle():
    (asked,) = [q for q in QUESTIONS if "platform" in q.question]
    passages = InOrder(10)(asked.question)
    place = next(i for i, p in enumerate(passages) if "platform 6" in p.text)
    assert 0 < place < len(passages) - 1


def test_rates_are_written_whole(tmp_path):
    figure = Figure.of("conflict", "steered", {"gain": 1.0}, Rate(3, 4), 0.5)
    write_rates(tmp_path / "rates.json", [figure])
    (read,) = json.loads((tmp_path / "rates.json").read_text())
    assert read == {
        "kind": "conflict", "method": "steered", "settings": {"gain": 1.0}, "n": 4, "value": 0.75,
        "low": pytest.approx(0.3006, abs=1e-3), "high": pytest.approx(0.9544, abs=1e-3), "p": 0.5,
    }  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["rates.json"]
