"""Tasks on a model whose answers are known: it says what is highlighted when steered, and what it remembers when not."""

import json

import pytest
import torch
from scripted import Scripted
from tiny import random_bank, random_expert, tiny_model

from seka_rag.bank import ExpertBank, load_bank
from seka_rag.bench.item import Opening
from seka_rag.bench.measure import first_outcome, opening_tokens, prompt_of
from seka_rag.bench.methods import INSTRUCTIONS, MARKED, SHIPPED, Variant, choose
from seka_rag.bench.rows import Table
from seka_rag.bench.runner import Subject, batches, run
from seka_rag.bench.tasks import TASKS
from seka_rag.bench.tasks.asking import group_of, question_item
from seka_rag.bench.tasks.base import Source
from seka_rag.errors import RecordError, SettingError
from seka_rag.hf.packaged import PACKAGED
from seka_rag.model.steered import SteeredModel
from seka_rag.questions.kinds import KINDS
from seka_rag.questions.records import Record
from seka_rag.steering.adaseka import AdaSeka
from seka_rag.steering.registry import suggested
from seka_rag.steering.seka import Seka

PLAIN, GOLD = Variant("plain"), Variant("seka", Seka(gain=1.0), highlight="gold")
WEAK, WRONG = Variant("seka", Seka(gain=0.5), highlight="gold"), Variant("seka", Seka(gain=1.0), highlight="wrong")


def record(name, gold, memory, passages=("In spring Ann moved to Lyon.", "Bob lives in Oslo."), marked=0, **meta):
    text = passages[marked]
    return Record(
        id=name, dataset="d", question=f"Where does {name} live?", passages=passages, gold_context_answer=gold,
        parametric_answer=memory, highlights=({"passage": marked, "start": 0, "end": len(text), "text": text},), meta=meta,
    )  # fmt: skip


def test_both_sides_of_a_known_model(tmp_path):
    elsewhere = {"passage": 1, "start": 0, "end": 18}
    records = [
        record("Ann", ("Lyon",), "Rome", elsewhere=elsewhere),
        record("Ada", ("Lyon",), "Lyon", elsewhere=elsewhere),
        record("Ida", (), "Rome", marked=1),
        record("Eve", ("Lyon",), None),
    ]
    items = [question_item(r, group_of(r)) for r in records]
    assert [i.groups for i in items] == [
        ("correction",),
        ("agreement",),
        ("irrelevant",),
        ("novel",),
    ]
    model = Scripted({"does Ann": "Rome", "does Ada": "Lyon", "does Ida": "Rome"})
    variants = [PLAIN, GOLD, WEAK, WRONG]
    journal = run("conflict-rag", Subject(model, tmp_path), items, variants)
    table = Table("conflict-rag", "scripted", items, variants, journal)
    figures = {m: [table.value(v, m) for v in variants] for m in table.metrics}
    assert figures["correction.right"] == [0, 1, 0, 0]
    assert figures["correction.other"] == [1, 0, 1, 0]  # says what it remembers
    assert figures["agreement.right"] == [1, 1, 1, 0]
    assert figures["irrelevant.right"][:3] == [1, 0, 1]  # has nothing wrong to highlight: left out there
    assert figures["novel.right"][:3] == [0, 1, 0]
    assert figures["correction.first"] == [0, 1, 0, 0]
    assert figures["correction.margin"][:2] == pytest.approx([-2.0, 1.0])
    assert figures["correction.stopped"] == [1] * 4
    assert figures["correction.words"] == [3] * 4
    assert figures["correction.kl"][0] == figures["correction.kl"][2] == 0
    assert figures["correction.kl"][1] > 0


def test_divergence_and_margin_by_hand():
    model = Scripted()
    size = len(model.tokenizer)
    (item,) = [question_item(record("Ann", ("Lyon",), "Rome"), "correction")]
    right, other = opening_tokens(model, item.opening)
    plain, steered = torch.zeros(size), torch.zeros(size)
    plain[next(iter(other))], steered[next(iter(right))] = 2.0, 3.0
    plain, steered = plain.log_softmax(-1), steered.log_softmax(-1)
    found = first_outcome(model, item, steered, plain)
    expected = torch.nn.functional.kl_div(steered, plain, log_target=True, reduction="sum")
    assert found == {"kl": pytest.approx(float(expected), abs=1e-5), "top": True, "margin": 3.0, "first": True}
    assert first_outcome(model, item, plain, plain)["kl"] == 0


def test_a_first_token_of_both_answers_tells_nothing():
    model = Scripted()
    same = Opening(text="It is", right=("Lyon",), other=("Lyon",))
    assert opening_tokens(model, same) == (set(), set())
    spaced, bare = (
        opening_tokens(model, Opening(text="It is", right=("Lyon",), other=("Rome",), spaced=s))[0]
        for s in (True, False)
    )
    assert model.tokenizer.decode(list(spaced)).startswith(" ")
    assert model.tokenizer.decode(list(bare)).startswith("L")


def test_prompts_of_rows_that_steer_nothing():
    item = question_item(record("Ann", ("Lyon",), "Rome"), "correction")
    marked = prompt_of(item, Variant("marked", highlight="gold", before=MARKED, marked=True))
    assert marked.text.startswith(f"{MARKED}\n\nContext:\n**In spring Ann moved to Lyon.**\n\nBob lives")
    assert not marked.spans
    assert prompt_of(item, Variant("instruction", before=INSTRUCTIONS[0])).text.startswith(INSTRUCTIONS[0])
    assert prompt_of(item, GOLD).highlighted == ("In spring Ann moved to Lyon.",)
    assert prompt_of(item, Variant("x", highlight="all")).highlighted == item.record.passages
    assert prompt_of(item, Variant("x", highlight="top_k")).highlighted == ("In spring Ann moved to Lyon.",)


def test_our_own_questions_fall_into_all_groups(tmp_path, monkeypatch):
    from seka_rag.bench.tasks import base
    from seka_rag.questions.facts import load_facts

    monkeypatch.setattr(base, "known_facts", lambda model, facts: [f for f in facts if f.category == "capital"])
    source = Source(Scripted(), tmp_path, limit=6)
    items = TASKS["conflict-rag"].items(source)
    groups = {g for item in items for g in item.groups}
    assert groups == {
        "correction", "correction/same", "correction/paraphrase", "resistance", "wrong-highlight", "agreement", "novel",
        "irrelevant", "disagree", "abstention",
    }  # fmt: skip
    capitals = {f.subject for f in load_facts() if f.category == "capital"}
    for item in items:
        group = item.groups[0]
        assert item.gold is not None
        if "fact" in item.record.meta:
            assert item.record.meta["subject"] in capitals
            assert item.opening.right
            assert item.opening.other
            assert not set(item.opening.right) & set(item.opening.other)
        if group == "resistance":  # the truth is highlighted, the lie stands there
            assert all(answer not in _text(item) for answer in item.record.meta["other_answers"])
        if group == "wrong-highlight":
            assert any(answer in _text(item) for answer in item.record.meta["other_answers"])
    assert len({i.id for i in items}) == len(items) == 8 * 6
    again = Source(Scripted(), tmp_path, limit=6)
    monkeypatch.setattr(base, "known_facts", None)  # what is known was kept
    assert TASKS["conflict-rag"].items(again) == items


def test_our_own_questions_of_a_file_are_asked_as_they_are_without_it(tmp_path, monkeypatch):
    from seka_rag.bench.tasks import base

    monkeypatch.setattr(base, "known_facts", lambda model, facts: [f for f in facts if f.category == "capital"])
    source = Source(Scripted(), tmp_path, limit=4)
    path = tmp_path / "ours.jsonl"
    path.write_text("".join(r.model_dump_json() + "\n" for kind in KINDS for r in source.questions(kind)))
    task = TASKS["conflict-rag"]
    assert task.items(Source(Scripted(), tmp_path, limit=99, data=path)) == task.items(source)


def test_a_highlighted_lie_is_no_agreement():
    passages = ("Ann lives in Rome.", "Ann lives in Lyon.")
    lie = record("Ann", ("Rome",), "Rome", passages, marked=1, other_answers=["Lyon"])
    assert group_of(lie) == "wrong-highlight"
    told = lie.model_copy(update={"meta": {**lie.meta, "evidence": {"passage": 0, "start": 0, "end": 18}}})
    assert group_of(told) == "resistance"
    assert _text(question_item(told, "resistance")) == passages[0]
    assert _text(question_item(told, "wrong-highlight")) == passages[1]
    assert group_of(record("Ann", ("Rome",), "Rome", passages, marked=0, other_answers=["Lyon"])) == "agreement"


def test_several_kinds_in_one_run(tmp_path, monkeypatch):
    from seka_rag.bench.tasks import base

    monkeypatch.setattr(base, "known_facts", lambda model, facts: [f for f in facts if f.category == "capital"])
    source = Source(Scripted(), tmp_path, limit=4)
    items = TASKS["several"].items(source)
    kinds = ("conflict", "statement", "biography", "proverb", "irrelevant")
    by_kind = {kind: [i for i in items if i.groups[0] == kind] for kind in kinds}
    assert {kind: len(some) for kind, some in by_kind.items()} == {**dict.fromkeys(kinds, 4)}
    assert all(i.groups[1:] == (("all",) if i.groups[0] != "irrelevant" else ()) for i in items)
    assert len({i.unit for i in items}) == len(items)
    assert all(i.opening is not None and i.gold is not None and not i.new_tokens for i in items)
    assert {len(i.passages) for kind in ("conflict", "irrelevant") for i in by_kind[kind]} == {3}
    with pytest.raises(RecordError, match="several: has our own questions only"):
        TASKS["several"].items(Source(Scripted(), tmp_path, limit=4, data=tmp_path / "x.jsonl"))


def _text(item):
    return " ".join(item.prompt(item.gold).highlighted)


def test_a_model_that_knows_nothing_is_told(tmp_path, monkeypatch):
    from seka_rag.bench.tasks import base

    monkeypatch.setattr(base, "known_facts", lambda model, facts: [])
    with pytest.raises(RecordError, match="scripted knows none of 128 facts"):
        _ = Source(Scripted(), tmp_path, limit=2).known


def counterfact(name, subject, new, true, paraphrases):
    current, old = f"Currently {subject} lives in {new}.", f"Previously {subject} lives in {true}."
    start = current.index("lives")
    mark = {"passage": 1, "start": start, "end": len(current) - 1, "text": current[start:-1]}
    meta = {
        "subject": subject, "target_new": new, "target_true": true, "rewrite_prompt": f"{subject} lives in",
        "paraphrases": paraphrases,
    }  # fmt: skip
    return {
        "id": name, "dataset": "counterfact", "question": paraphrases[0], "passages": [old, current],
        "gold_context_answer": [new], "parametric_answer": true, "highlights": [mark], "meta": meta,
    }  # fmt: skip


def test_counterfact_in_the_papers_prompt_and_as_passages(tmp_path):
    rows = [
        counterfact("1", "Ann", "Lyon", "Rome", ["The home of Ann is in", "Ann dwells in"]),
        counterfact("2", "Bob", "Oslo", "Bonn", ["The home of Bob is in"]),
        counterfact("3", "Cid", "Kyiv", "Linz", ["The home of Cid is in"]),
        counterfact("4", "Dan", "Pisa", "Faro", ["The home of Dan is in"]),
    ]
    path = tmp_path / "cf.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    model = Scripted({"Bob": "Bonn", "Cid": "Kyiv", "Ann": "Rome", "Dan": "Faro"})
    items = TASKS["counterfact"].items(Source(model, tmp_path, limit=9, data=path))
    first = next(i for i in items if i.id == "1/0")
    text = first.prompt(first.gold)
    assert text.text == "Previously Ann lives in Rome. Currently Ann lives in Lyon."
    assert (first.opening.text, text.highlighted) == ("The home of Ann is in", ("lives in Lyon",))
    assert first.prompt(first.wrong).highlighted == ("Ann lives in Rome",)
    assert first.opening.right == ("lyon", "Lyon", "LYON")
    assert first.groups[:2] == ("ES", "PS")
    assert next(i for i in items if i.id == "1/1").groups[0] == "PS"
    rag = next(i for i in items if i.id == "1/RAG")
    assert rag.prompt(rag.gold).highlighted == ("Ann lives in Lyon.",)
    other = next(i for i in items if i.id == "1/irrelevant")
    assert not any(answer in " ".join(other.record.passages) for answer in ("Lyon", "Rome"))
    table = Table("c", "m", items, [PLAIN, GOLD], run("counterfact", Subject(model, tmp_path), items, [PLAIN, GOLD]))
    # plain it says what it remembers, of Cid the new answer; steered what is highlighted
    assert table.values(PLAIN, "ES.first") == {"1": 0, "2": 0, "3": 1, "4": 0}
    assert table.value(GOLD, "ES.first") == 1
    assert table.value(PLAIN, "irrelevant.kl") == 0
    bare = TASKS["counterfact-paper"].items(Source(model, tmp_path, limit=1, data=path))
    assert not bare[0].opening.spaced


def test_records_that_are_none_of_counterfact_are_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(record("Ann", ("Lyon",), "Rome").model_dump_json() + "\n")
    with pytest.raises(RecordError, match="x.jsonl, line 1, record 'Ann', meta.subject: counterfact needs a text"):
        TASKS["counterfact"].items(Source(Scripted(), tmp_path, limit=9, data=path))
    path.write_text(path.read_text() + '{"id": "y"}\n')
    with pytest.raises(RecordError, match=r"x.jsonl, line 2, dataset: Field required"):
        TASKS["conflict-rag"].items(Source(Scripted(), tmp_path, limit=9, data=path))


def test_batches_hold_what_is_alike():
    assert batches([5, 1, 9, 2], rows=2, tokens=100) == [[1, 3], [0, 2]]
    assert batches([5, 1, 9, 2], rows=9, tokens=10) == [[1, 3], [0], [2]]


def test_unknown_names():
    with pytest.raises(SettingError, match="unknown method 'sekka': did you mean 'seka'"):
        choose(["sekka"], None)
    with pytest.raises(SettingError, match="unknown highlight 'best'"):
        choose(["seka"], None, highlights=["best"])
    with pytest.raises(SettingError, match="this model has none: give --bank"):
        choose(["suggested"], None)
    keys = [v.key for v in choose(["seka", "random-projection"], None, highlights=["gold", "all"])]
    assert keys[0] == PLAIN.key
    assert len(set(keys)) == len(keys) == 1 + 2 * 3 + 2 * 5


def test_experts_each_alone_together_and_dealt_at_random():
    model = tiny_model("qwen3")
    bank = ExpertBank({"a": random_expert(model, 1), "b": random_expert(model, 2)})
    methods = {v.method: v for v in choose(None, bank)}
    assert {"adaseka", "adaseka-uniform", "adaseka-random", "expert a", "expert b"} <= set(methods)
    assert methods["expert b"].steering == AdaSeka(expert="b", gain=2.0)
    assert "seka" not in methods
    assert not {m for m in (v.method for v in choose(None, random_bank(model))) if "adaseka" in m or "expert" in m}
    with pytest.raises(SettingError, match="the bank that ships with a model: this one has none"):
        choose(["calibrated"], bank)


def test_the_shipped_bank_beside_experts(tmp_path):
    shipped = load_bank(PACKAGED["smollm2"].bank)
    half, whole = choose(["calibrated"], ExpertBank({"a": shipped}))[1:3]
    assert whole.steering == suggested(shipped)
    assert half.strength == whole.strength / 2
    assert whole.settings["bank"] == SHIPPED
    assert whole.settings["digest"] == shipped.digest  # another bank would be another line
    demo = SteeredModel.from_pretrained("seka-demo", bank=None)
    assert Subject(demo, tmp_path).of(SHIPPED).bank.digest == load_bank(PACKAGED["seka-demo"].bank).digest


def test_the_default_is_the_suggested_method_at_its_strength():
    bank = random_bank(tiny_model("llama"))
    methods = {v.method for v in choose(None, bank)}
    assert "suggested" in methods
    assert "default" not in methods  # only where it is named
    _, half, whole, double = choose(["suggested"], bank)
    assert [v.steering for v in choose(["default"], bank)[1:]] == [whole.steering]
    assert half.strength * 2 == whole.strength == double.strength / 2 > 0
