"""Records as users write them: read, checked, and judged."""

import json

import pytest

from seka_rag.errors import RecordError, SekaError
from seka_rag.questions.records import Record, read_records
from seka_rag.text.spans import Span

RECORD = {
    "id": "a",
    "dataset": "mine",
    "question": "What is the capital of France?",
    "passages": ["Nothing here.", "Since May, the capital is Lyon."],
    "gold_context_answer": ["Lyon"],
    "parametric_answer": "Paris",
    "highlights": [{"passage": 1, "start": 11, "end": 30, "text": "the capital is Lyon"}],
    "meta": {},
}


def written(tmp_path, *records):
    path = tmp_path / "records.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def test_a_record_is_read(tmp_path):
    (record,) = read_records(written(tmp_path, RECORD))
    assert json.loads(record.model_dump_json()) == RECORD
    assert [p.highlighted for p in record.marked] == [(), ("the capital is Lyon",)]
    assert record.marked[1].spans == (Span(11, 30),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": ""}, "question: "),
        ({"passages": []}, "passages: "),
        ({"passages": "text"}, "passages: "),
        ({"gold_context_answer": "Lyon"}, "gold_context_answer: "),
        ({"parametric_answer": 3}, "parametric_answer: "),
        ({"highlights": [{"passage": 2, "start": 0, "end": 1, "text": "N"}]}, "highlights.0.passage: 2, but there are 2"),
        ({"highlights": [{"passage": 0, "start": 0, "end": 4, "text": "Noth"}, {"passage": 0, "start": 0, "end": 4}]},
         "highlights.1.text: Field required"),
        ({"highlights": [{"passage": 0, "start": 1, "end": 4, "text": "Not"}]}, "highlights.0.text: 'Not' is not what"),
        ({"highlights": [{"passage": 0, "start": -1, "end": 4, "text": "Not"}]}, "highlights.0.start: "),
        ({"meta": {"other_answers": "Lyon"}}, "meta.other_answers: must be a list of strings"),
        ({"meta": {"parametric_aliases": [1]}}, "meta.parametric_aliases: must be a list of strings"),
        ({"answer": "Lyon"}, "answer: "),
    ],
)  # fmt: skip
def test_a_wrong_record_is_named_with_line_and_field(tmp_path, change, message):
    path = written(tmp_path, RECORD, "", {**RECORD, "id": "b", **change})
    with pytest.raises(RecordError) as caught:
        read_records(path)
    assert f"{path}, line 3, " in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_field_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"line 1, parametric_answer: Field required"):
        read_records(written(tmp_path, {k: v for k, v in RECORD.items() if k != "parametric_answer"}))


@pytest.mark.parametrize("line", ["{", "[1]", "null", '{"id": "a"', "\ufeff{}"])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    with pytest.raises(RecordError, match=r"records\.jsonl, line 2"):
        read_records(written(tmp_path, RECORD, line))


def test_an_id_stands_once(tmp_path):
    with pytest.raises(RecordError, match=r"line 3, id: 'a' stands already in line 1"):
        read_records(written(tmp_path, RECORD, {**RECORD, "id": "b"}, RECORD))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RecordError, match="cannot read"):
        read_records(tmp_path / "none.jsonl")
    with pytest.raises(SekaError, match="is empty: write one JSON object a line with id, dataset, question"):
        read_records(written(tmp_path, "", "  "))
    (tmp_path / "latin.jsonl").write_bytes(json.dumps(RECORD).encode() + b'\n{"id": "\xe9"}\n')
    with pytest.raises(RecordError, match=r"not UTF-8.*save it as UTF-8"):
        read_records(tmp_path / "latin.jsonl")


def test_public_data_sets_are_in_this_form(shared_data):
    for name in (
        "counterfact",
        "conflictnq",
        "conflictqa_strategyqa",
        "memotrap_proverb",
        "litm_10doc",
        "kv_retrieval_75",
    ):
        assert len(read_records(shared_data / "datasets" / f"{name}.jsonl")) >= 60


@pytest.mark.parametrize(
    ("gold", "memory", "meta", "right", "wrong"),
    [
        (["Lyon"], "Paris", {}, "It is Lyon.", "It is Paris, not Lyon."),
        (["Kyiv", "Kiev"], "Kyiv", {"parametric_aliases": ["Kiev"]}, "Kiev", "Lviv"),
        ([], "Paris", {"parametric_aliases": ["Lutetia"]}, "Lutetia", "The text does not say."),
        (["14:00"], None, {"other_answers": ["15:00"]}, "At 14:00.", "At 14:00 or 15:00."),
        (["Paris"], "Paris", {"other_answers": ["Lyon"]}, "Paris", "Lyon"),
        ([], None, {}, "The text does not say.", "At 14:00."),
    ],
)
def test_right_answers(gold, memory, meta, right, wrong):
    record = Record.model_validate({**RECORD, "gold_context_answer": gold, "parametric_answer": memory, "meta": meta})
    assert record.is_right(right)
    assert not record.is_right(wrong)
