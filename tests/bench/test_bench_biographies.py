"""BiasBios and PronChange on biographies written by hand and on ours; ConflictNQ with its real passages."""

import re

import pytest
import torch
from scripted import Scripted, marked_text, of_file

from seka_rag.bench.measure import first_outcome
from seka_rag.bench.methods import Variant
from seka_rag.bench.rows import Table
from seka_rag.bench.runner import Subject, run
from seka_rag.bench.tasks import TASKS
from seka_rag.bench.tasks.base import Source
from seka_rag.bench.text_measures import pronouns_changed
from seka_rag.errors import RecordError
from seka_rag.questions.biographies import OCCUPATIONS, biographies
from seka_rag.steering.seka import Seka

PLAIN, GOLD = Variant("plain"), Variant("seka", Seka(gain=1.0), highlight="gold")
WRONG = Variant("seka", Seka(gain=1.0), highlight="wrong")


def record(name, passages, gold, marked, **more):
    text = passages[marked[0]][marked[1] : marked[2]]
    mark = {"passage": marked[0], "start": marked[1], "end": marked[2], "text": text}
    return {
        "id": name, "dataset": "d", "question": f"{name} has the occupation of a/an", "passages": passages,
        "gold_context_answer": gold, "parametric_answer": None, "highlights": [mark], "meta": {}, **more,
    }  # fmt: skip


def test_biographies_are_the_same_again_and_tell_one_occupation_first():
    made = biographies("development", 60)
    assert made == biographies("development", 60)
    assert made[:9] == biographies("development", 9)
    other = {(b.name, b.occupation) for b in biographies("held-out", 60)}
    assert not other & {(b.name, b.occupation) for b in made}
    for bio in made:
        named = [
            {o for o in OCCUPATIONS if re.search(rf"\b{o}\b", text)} for text in (bio.sentences[0], *bio.sentences[1:])
        ]
        assert named[0] == {bio.occupation}
        assert sum(map(bool, named[1:])) == 3
        assert bio.occupation not in set().union(*named[1:])
        assert named[bio.elsewhere]
        assert bio.text[slice(*bio.span(bio.elsewhere))] == bio.sentences[bio.elsewhere]
        pronouns = {"she", "her", "herself"}, {"he", "him", "his", "himself"}
        used = set(re.findall(r"\w+", bio.text.lower()))
        assert sum(bool(used & some) for some in pronouns) == 1  # of one person
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|[{}]", bio.text)
    with pytest.raises(RecordError, match="split 'all', n=1"):
        biographies("all", 1)


def test_biasbios_in_the_papers_prompt(tmp_path):
    texts = {"Ann": "Bonn", "Bob": "Oslo", "Cid": "Lyon", "Dan": "Rome"}
    rows = [record(n, [f"{n} is from {c}. Her father is from Kyiv."], [c], (0, 0, 17)) for n, c in texts.items()]
    rows[0]["meta"] = {"elsewhere": {"passage": 0, "start": 18, "end": 42}}
    model = Scripted({"Cid": "Lyon"})
    items = TASKS["biasbios"].items(of_file(tmp_path, rows, model))
    assert items[0].prompt(items[0].gold).text == (
        "Ann is from Bonn. Her father is from Kyiv.\n\nAnn has the occupation of a/an"
    )
    assert (marked_text(items[0]), marked_text(items[0], items[0].wrong)) == (
        "Ann is from Bonn.",
        "Her father is from Kyiv.",
    )
    assert items[0].opening.right == ("bonn", "Bonn", "BONN")
    assert set(items[0].opening.other) >= {"Oslo", "oslo", "Lyon", "ROME"}
    table = Table("b", "m", items, [PLAIN, GOLD], run("biasbios", Subject(model, tmp_path), items, [PLAIN, GOLD]))
    assert [table.value(v, "bio.first") for v in (PLAIN, GOLD)] == [0.25, 1]
    assert [table.value(v, "bio.right") for v in (PLAIN, GOLD)] == [0.25, 1]


def test_among_the_three_likeliest_by_hand(tmp_path):
    cities = ["Bonn", "Oslo", "Lyon", "Rome", "Pisa"]
    rows = [record(c, [f"Ann is from {c}."], [c], (0, 0, 16)) for c in cities]
    model = Scripted()
    item = TASKS["biasbios"].items(of_file(tmp_path, rows))[0]

    def outcome(**logits):
        scores = torch.zeros(len(model.tokenizer))
        for word, value in logits.items():
            scores[model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0]] = value
        scores = scores.log_softmax(-1)
        return first_outcome(model, item, scores, scores)

    assert outcome(Bonn=4, Oslo=5, Lyon=6)["top3"] is True
    assert outcome(Bonn=4, Oslo=5, Lyon=6)["first"] is False
    assert outcome(Bonn=4, Oslo=5, Lyon=6, Rome=7)["top3"] is False
    assert outcome(Bonn=4, Oslo=5, Lyon=6, Rome=3, Kyiv=9)["top3"] is True  # no occupation of these records


def test_pronouns_by_hand():
    text = "She is a nurse. He sees her. His cat likes him."  # words but pronouns: is a nurse sees cat likes
    assert pronouns_changed(text, text, every=False) == 0
    assert pronouns_changed(text, "They is a nurse. They sees her. His cat likes him.", every=False) == 1
    assert pronouns_changed(text, "They is a nurse. They sees her. His cat likes him.", every=True) == pytest.approx(
        2 / 5
    )
    assert pronouns_changed(text, "They is a nurse. She runs.", every=False) == pytest.approx(1 / 2 * 3 / 6)
    assert pronouns_changed(text, "", every=True) == 0  # all are gone, and all words too
    assert pronouns_changed(text, "He he he she she", every=False) == 0  # more than there were
    assert pronouns_changed("Ann reads.", "Ann reads. She", every=False) == 1  # none to change


def test_pronchange_highlights_the_instruction(tmp_path):
    bio, order = "Ann is a nurse. She reads.", "Write they for she. Ann"
    rows = [record("Ann", [bio, order], ["nurse"], (1, 0, len(order)))]
    model = Scripted()
    (item,) = TASKS["pronchange"].items(of_file(tmp_path, rows, model))
    assert item.prompt(item.gold).text == f"{bio}\n{order}\n"
    assert (marked_text(item), marked_text(item, item.wrong)) == (order, bio)
    table = Table("p", "m", [item], [PLAIN], run("pronchange", Subject(model, tmp_path), [item], [PLAIN]))
    # it says "It is Nothing.": no she, and of ann is a nurse reads only "is"
    assert table.value(PLAIN, "text.P") == table.value(PLAIN, "text.AP") == pytest.approx(1 / 5)
    ours = TASKS["pronchange"].items(Source(model, tmp_path, limit=3))
    assert all(marked_text(i).startswith("Rewrite the text above: substitute she and he with they.") for i in ours)


def test_conflictnq_on_both_sides(tmp_path):
    fake, real = ["Ann came. Ann lives in Lyon.", "Bob came."], ["Ann lives in Rome ."]
    both = record("Ann", fake, ["Lyon"], (0, 10, 28), parametric_answer="Rome", meta={"real_passages": real})
    unmarked = {**both, "id": "Bob", "highlights": []}
    unlike = {**both, "id": "Cid", "meta": {"real_passages": ["Nothing."]}}
    items = TASKS["conflict-rag"].items(of_file(tmp_path, [both, unmarked, unlike]))
    assert [(i.id, i.groups) for i in items] == [
        ("Ann", ("correction",)), ("Ann/real", ("agreement",)), ("Bob", ("correction",)), ("Bob/real", ("agreement",)),
        ("Cid", ("correction",)),
    ]  # fmt: skip
    told, remembered = "Ann lives in Lyon.", "Ann lives in Rome ."
    marked = [None if item.gold is None else marked_text(item) for item in items]
    assert marked == [told, remembered, None, remembered, told]  # Bob's passages are for highlighters
    assert items[1].record.is_right("In Rome.")


AT = {"passage": 0, "start": 0, "end": 3}


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("biasbios", {"gold_context_answer": []}, "gold_context_answer: biasbios needs the occupation"),
        ("biasbios", {"passages": ["Ann is a nurse.", "x"]}, "passages: biasbios needs the biography alone, and there are 2"),
        ("biasbios", {"highlights": []}, "highlights: biasbios needs the sentence"),
        ("pronchange", {}, "passages: pronchange needs a biography and an instruction, and there are 1"),
        ("pronchange", {"passages": ["Ann is a nurse.", "x"], "highlights": []}, "highlights: pronchange needs the inst"),
        ("conflict-rag", {"meta": {"real_passages": [3]}}, "meta.real_passages: conflict-rag needs a list of texts"),
        ("counterfact", {"meta": {"subject": 3}}, "meta.subject: counterfact needs a text"),
        ("poison", {"meta": {"evidence": "Ann"}}, "meta.evidence: give passage, start and end, whole numbers, and not 'Ann'"),
        ("poison", {"meta": {"evidence": {**AT, "passage": "0"}}}, "meta.evidence: give passage, start and end"),
        ("poison", {"meta": {"evidence": {**AT, "start": True}}}, "meta.evidence: give passage, start and end"),
        ("poison", {"meta": {"evidence": {**AT, "passage": 99}}}, "meta.evidence: there is no passage 99, there are 1,"),
        ("poison", {"meta": {"evidence": {**AT, "end": 99}}}, r"meta.evidence: \[0, 99\) is no part of passage 0, which has"),
        ("poison", {"meta": {"evidence": {**AT, "start": 9}}}, r"meta.evidence: \[9, 3\) is no part"),
        ("poison", {"meta": {"evidence": AT, "fact": ["x"]}}, r"meta.fact: give the name of a fact, and not \['x'\]"),
        ("conflict-rag", {"meta": {"fact": ["x"]}}, "meta.fact: give the name of a fact"),
        ("conflict-rag", {"meta": {"kind": "wrong"}}, "meta.evidence: where the truth stands is needed"),
        ("fluency", {"meta": {"elsewhere": {**AT, "passage": 1}}}, "meta.elsewhere: there is no passage 1"),
        ("biasbios", {"meta": {"elsewhere": {**AT, "end": 0}}}, r"meta.elsewhere: \[0, 0\) is no part"),
    ],
)  # fmt: skip
def test_unusable_records_are_named_with_line_and_field(tmp_path, task, change, message):
    good = record("Ann", ["Ann is a nurse."], ["nurse"], (0, 0, 15))
    if task == "pronchange":
        good = record("Ann", ["Ann is a nurse.", "Go."], ["nurse"], (1, 0, 3))
    bad = {**record("Eve", ["Ann is a nurse."], ["nurse"], (0, 0, 15)), **change}
    first = [] if task in ("counterfact", "poison") else [good]
    line = len(first) + 1
    with pytest.raises(RecordError, match=rf"records.jsonl, line {line}, record 'Eve', {message}"):
        TASKS[task].items(of_file(tmp_path, [*first, bad]))


def test_public_files_are_read_as_they_are(tmp_path, shared_data):
    rows = {
        name: Source(Scripted(), tmp_path, limit=500, data=shared_data / "datasets" / f"{name}.jsonl")
        for name in ("counterfact", "conflictnq", "memotrap_proverb", "litm_10doc", "litm_oracle", "kv_retrieval_75")
    }
    edits = [i for i in TASKS["counterfact"].items(rows["counterfact"]) if "ES" in i.groups]
    assert len(edits) == 499  # one has no attribute to highlight
    for item in edits[:200]:
        meta = item.record.meta
        text = item.prompt(item.gold)
        assert f"{text.text} {item.opening.text}" == meta["steer_prompt"].strip()
        assert text.highlighted == (meta["attribute"],)
    asked = TASKS["conflict-rag"].items(rows["conflictnq"])
    groups = [item.groups[0] for item in asked if item.gold is not None]
    marked_ones = sum(bool(record.highlights) for record in rows["conflictnq"].records())
    assert groups.count("correction") == marked_ones
    assert 0 < groups.count("agreement") <= len(rows["conflictnq"].records())
    assert len(TASKS["memotrap"].items(rows["memotrap_proverb"])) == 430
    ten = TASKS["lost-in-the-middle"].items(rows["litm_10doc"])
    assert len(ten) == 120
    assert {len(item.record.passages) for item in ten} == {10}
    assert len(TASKS["nq-swap"].items(rows["litm_oracle"])) >= 200
    assert len(TASKS["kv-retrieval"].items(rows["kv_retrieval_75"])) == 60
