"""On a cluster of two nodes: what is learned, answered, measured and served is what one process gives."""

from __future__ import annotations

import time

import pytest
import torch

from seka_rag import BM25Retriever, Rag, RemoteModel, SteeredModel, learn_bank, template_triples
from seka_rag.bench.methods import choose
from seka_rag.bench.rows import Table
from seka_rag.bench.runner import Subject, run
from seka_rag.bench.tasks import TASKS
from seka_rag.bench.tasks.base import Source
from seka_rag.errors import LearningError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.usefixtures("two_nodes")]
DEMO = "seka-demo"


@pytest.fixture(scope="module")
def here():
    return SteeredModel.from_pretrained(DEMO)


def test_learning_by_parts_is_learning_at_once(here):
    """Of 48 triples every prompt gives a mean query in both, so that all of the bank can be compared."""
    from learning import learn_in_parts

    triples = template_triples(48)
    bank, alone = learn_in_parts(DEMO, triples, 4, best=0.2), learn_bank(here, triples, best=0.2)
    assert bank.layers == alone.layers
    assert torch.equal(bank.ranks, alone.ranks)
    for layer in alone.layers:
        assert torch.allclose(bank.projection(layer), alone.projection(layer), atol=1e-5)
    assert bank.queries is not None
    for layer, mean in alone.queries.mean.items():
        assert torch.allclose(bank.queries.mean[layer], mean, rtol=1e-4, atol=1e-5)
    other = learn_bank(here, triples[:12], best=0.2)
    assert not all(torch.allclose(other.projection(i), alone.projection(i), atol=1e-3) for i in other.layers)
    with pytest.raises(LearningError, match="give each part once"):
        learn_in_parts(DEMO, [*triples[:12], *triples[:12]], 2)


def test_batches_of_questions_are_answered_as_one_by_one(here):
    from answering import PASSAGES, PLACES, answer_all

    questions = [f"Where does {name} live?" for name in PLACES] * 3
    rows = {}
    for row in answer_all(DEMO, PASSAGES, questions, batch_size=4, max_new_tokens=5).take_all():
        rows.setdefault(row["question"], []).append(row)
    rag = Rag(here, BM25Retriever(PASSAGES))
    for name, city in PLACES.items():
        question = f"Where does {name} live?"
        expected = rag.answer(question, max_new_tokens=5)
        assert expected.text == city
        assert len(rows[question]) == 3
        for row in rows[question]:
            assert (row["answer"], row["tokens_edited"]) == (city, expected.generation.report.tokens_edited)
            assert list(row["sources"]) == [passage.source for passage in expected.passages]
            assert row["tokens_edited"] > 0


def test_a_benchmark_has_the_rows_of_one_process(here, tmp_path):
    from benchmark import measure, write_records

    task = TASKS["conflict-rag"]
    variants = choose(("plain", "suggested"), here.bank, quick=True, highlights=task.highlights)
    write_records(tmp_path / "records.jsonl")
    items = task.items(Source(here, tmp_path, limit=4, data=tmp_path / "records.jsonl"))
    table = measure(task.name, here, items, variants, tmp_path / "parts")
    journal = run(task.name, Subject(here, tmp_path / "alone"), items, variants)
    alone = Table(task.name, here.name, items, variants, journal)
    assert [row.as_dict() for row in table.rows()] == [
        {**row.as_dict(), "value": pytest.approx(row.value, abs=1e-4)}
        | {name: None if (v := getattr(row, name)) is None else pytest.approx(v, abs=1e-4) for name in ("low", "high")}
        for row in alone.rows()
    ]
    assert any(row.metric.endswith(".right") and row.method != "plain" for row in table.rows())


def test_a_replica_that_died_is_replaced_and_no_answer_is_unsteered(here):
    import ray
    import serving
    from ray import serve

    expected = here.chat(serving.STEERED, max_new_tokens=5)
    plain = here.chat(serving.PLAIN, max_new_tokens=5)
    assert plain.text != expected.text
    serve.start(http_options={"host": "127.0.0.1", "port": serving.PORT})
    try:
        serve.run(serving.application(DEMO))
        model = RemoteModel(f"http://127.0.0.1:{serving.PORT}/v1", max_retries=8)
        assert model.chat(serving.PLAIN, max_new_tokens=5).text == plain.text
        first = serving.replicas()
        assert len(first) == 2
        for i in range(40):
            if i == 5:
                ray.kill(ray.get_actor(first[0], namespace="serve"))
            answer = model.chat(serving.STEERED, max_new_tokens=5)
            assert (answer.text, answer.report.tokens_edited) == (expected.text, expected.report.tokens_edited)
        end = time.monotonic() + 600
        while len(set(serving.replicas()) - {first[0]}) < 2:
            assert time.monotonic() < end, "the replica was not replaced"
            time.sleep(0.5)
    finally:
        serve.shutdown()


def test_a_replica_that_would_not_steer_does_not_come_into_service():
    """The model without a bank: its trial request fails in the replica, and the deployment with it."""
    import serving
    from ray import serve

    try:
        with pytest.raises(RuntimeError, match=r"Failed to update the deployments \['SteeredModel'\]"):
            serve.run(serving.application(DEMO, bank=None, replicas=1))
        assert "has no bank" in serve.status().applications["default"].deployments["SteeredModel"].message
    finally:
        serve.shutdown()
