"""Generated questions: every record is what its kind says, both sides are apart, and the same seed gives the same."""

import hashlib
import json
from functools import cache
from itertools import pairwise, product

import pytest

from seka_rag.errors import RecordError
from seka_rag.questions.answers import contains_answer, normalise
from seka_rag.questions.facts import SPLITS, load_facts
from seka_rag.questions.invented import details, load_domains
from seka_rag.questions.kinds import KINDS, questions
from seka_rag.questions.passages import load_styles, write
from seka_rag.questions.pen import Pen, shared_words
from seka_rag.questions.records import Record, read_records
from seka_rag.text.sentences import sentences

N = 60
FACTS = {fact.id: fact for fact in load_facts()}


@cache
def written(kind, split):
    """``N`` records, as often as they are asked for."""
    return questions(kind, split, N)


def of(kind):
    return [record for split in SPLITS for record in written(kind, split)]


def text_of(record, mark):
    return record.passages[mark["passage"]][mark["start"] : mark["end"]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_of(kind):
    for record in of(kind):
        again = Record.model_validate_json(record.model_dump_json())
        assert again.model_dump(mode="json") == record.model_dump(mode="json")
        assert 3 <= len(record.passages) <= 10
        assert len(set(record.passages)) == len(record.passages) == len(record.meta["styles"])
        (mark,) = record.highlights
        assert record.passages[mark.passage][mark.start : mark.end] == mark.text
        for key in ("evidence", "elsewhere"):
            place = record.meta[key]
            assert place is None or text_of(record, place) == place["text"]
        assert record.meta["kind"] == kind
        assert record.meta["split"] in SPLITS
        for passage in record.passages:
            assert passage == passage.strip()
            assert not set("{}") & set(passage)
            assert "  " not in passage
            assert ".." not in passage
            assert 2 <= len(sentences(passage)) <= 12
            assert len(passage) < 900


def test_conflict():
    for record in of("conflict"):
        fact = FACTS[record.meta["fact"]]
        assert record.remembered == fact.answers
        assert record.gold_context_answer in fact.alternatives
        evidence = record.meta["evidence"]
        assert record.highlights[0].model_dump() == evidence
        assert contains_answer(evidence["text"], record.gold_context_answer[:1])
        assert not any(contains_answer(p, fact.answers) for p in record.passages)
        others = [p for i, p in enumerate(record.passages) if i != evidence["passage"]]
        assert not any(contains_answer(p, record.gold_context_answer) for p in others)
        assert record.is_right(record.gold_context_answer[0])
        assert not record.is_right(fact.answers[0])


def test_the_answer_stands_in_the_evidence_only():
    for record in (r for kind in ("conflict", "agreement", "wrong", "novel", "disagree") for r in of(kind)):
        place = record.meta["evidence"]
        text = record.passages[place["passage"]]
        rest = text[: place["start"]] + text[place["end"] :]
        assert contains_answer(place["text"], record.gold_context_answer)
        assert not contains_answer(rest, record.gold_context_answer)


def test_agreement():
    for record in of("agreement"):
        fact = FACTS[record.meta["fact"]]
        assert record.gold_context_answer == record.remembered == fact.answers
        assert record.highlights[0].model_dump() == record.meta["evidence"]
        assert contains_answer(record.highlights[0].text, fact.answers)
        assert not any(contains_answer(p, record.meta["false_answer"]) for p in record.passages)
        assert record.is_right(fact.answers[0])


def test_irrelevant():
    for record in of("irrelevant"):
        fact = FACTS[record.meta["fact"]]
        assert record.gold_context_answer == ()
        assert record.meta["evidence"] is None
        assert record.highlights[0].model_dump() == record.meta["elsewhere"]
        assert not any(contains_answer(p, [*fact.answers, *record.meta["false_answer"]]) for p in record.passages)
        assert record.is_right(fact.answers[0])
        assert not record.is_right("The passages do not say.")


def test_wrong():
    for record in of("wrong"):
        fact = FACTS[record.meta["fact"]]
        false, evidence, (mark,) = record.meta["other_answers"], record.meta["evidence"], record.highlights
        assert record.gold_context_answer == record.remembered == fact.answers
        assert tuple(false) in fact.alternatives
        assert mark.passage != evidence["passage"]
        assert contains_answer(evidence["text"], fact.answers)
        assert contains_answer(mark.text, false)
        assert not contains_answer(record.passages[mark.passage], fact.answers)
        assert not contains_answer(record.passages[evidence["passage"]], false)
        assert record.is_right(fact.answers[0])
        assert not record.is_right(false[0])


def test_novel():
    for record in of("novel"):
        assert record.parametric_answer is None
        assert record.highlights[0].model_dump() == record.meta["evidence"]
        assert contains_answer(record.highlights[0].text, record.gold_context_answer[:1])
        holding = [i for i, p in enumerate(record.passages) if contains_answer(p, record.gold_context_answer)]
        assert holding == [record.highlights[0].passage]
        assert contains_answer(record.question, [record.meta["subject"]])


def test_disagree():
    for record in of("disagree"):
        others = record.meta["other_answers"]
        one = [i for i, p in enumerate(record.passages) if contains_answer(p, record.gold_context_answer)]
        other = [i for i, p in enumerate(record.passages) if contains_answer(p, others)]
        assert one == [record.highlights[0].passage]
        assert len(other) == 1
        assert other != one
        assert contains_answer(record.passages[other[0]], [record.meta["subject"]])
        assert record.is_right(record.gold_context_answer[0])
        assert not record.is_right(others[0])


def test_unanswerable():
    by_name = {(d.subject, f"{d.domain.domain}: {d.attribute.name}"): d for split in SPLITS for d in details(split)}
    for record in of("unanswerable"):
        assert (record.gold_context_answer, record.parametric_answer, record.meta["evidence"]) == ((), None, None)
        detail = by_name[record.meta["subject"], record.meta["category"]]
        about = [p for p in record.passages if contains_answer(p, [detail.subject])]
        assert about == [record.passages[record.highlights[0].passage]]
        for statement in detail.statements:  # nobody says it, with whatever value
            before, after = statement.split("{answer}")
            assert not any(before.strip(" ,") in p and after.strip(" ,") in p for p in about if before and after)
        assert record.is_right("The passages do not say.")
        assert not record.is_right(detail.attribute.values[0][0])


def test_the_sides_share_no_subject_and_no_held_out_writing():
    sides = [set(), set()]
    for kind, side in product(KINDS, range(2)):
        sides[side] |= {normalise(r.meta["subject"]) for r in written(kind, SPLITS[side])}
    assert not sides[0] & sides[1]
    for split in SPLITS:
        assert {d.subject for d in details(split)}
    assert not {d.subject for d in details("development")} & {d.subject for d in details("held-out")}
    held = {style.name for style in load_styles().styles if style.split == "held-out"}
    domains = {domain.domain for domain in load_domains() if domain.split == "held-out"}
    assert len(held) >= 2
    assert len(domains) >= 2
    for kind, split in product(KINDS, SPLITS):
        styles = {style for record in written(kind, split) for style in record.meta["styles"]}
        assert (styles >= held) if split == "held-out" else not (styles & held)
    assert not {d.domain.domain for d in details("development")} & domains


def test_distractors_come_from_the_same_side():
    facts = {side: [f for f in FACTS.values() if f.split == side] for side in SPLITS}
    for split, other in (SPLITS, SPLITS[::-1]):
        strangers = {f.subject for f in facts[other]} | {d.subject for d in details(other)}
        openings = [p.split(". ")[0] for kind in KINDS for r in written(kind, split) for p in r.passages]
        named = {s for s in strangers for o in openings if o == s[:1].upper() + s[1:]}  # an entry's heading
        assert not named


def test_the_same_seed_gives_the_same_everywhere():
    for kind in KINDS:
        assert questions(kind, "development", 5) == written(kind, "development")[:5]
        assert questions(kind, "development", 5, seed=1) != written(kind, "development")[:5]
    whole = json.dumps([r.model_dump(mode="json") for k in KINDS for r in questions(k, "development", 3)])
    assert hashlib.sha256(whole.encode()).hexdigest()[:16] == FINGERPRINT


#: Of three development questions of each kind. It changes with the data and with the writing; nothing else may change it.
FINGERPRINT = "30d17409e7406786"


def test_questions_of_all_kinds_are_about_the_same_facts():
    ids = [
        [r.meta["fact"] for r in written(kind, "held-out")] for kind in ("conflict", "agreement", "irrelevant", "wrong")
    ]
    assert all(a == b for a, b in pairwise(ids))
    assert len(set(ids[0])) == N


def test_half_repeats_the_passage():
    for kind in ("conflict", "agreement", "wrong", "novel", "disagree"):
        for split in SPLITS:
            wordings = [r.meta["wording"] for r in written(kind, split)]
            assert wordings == ["same", "paraphrase"] * (N // 2)
    for record in of("conflict"):
        fact = FACTS[record.meta["fact"]]
        claims = [s for s in fact.statements if s.replace("{answer}", record.gold_context_answer[0]) in
                  record.highlights[0].text[:1].lower() + record.highlights[0].text[1:] or
                  s.replace("{answer}", record.gold_context_answer[0]) in record.highlights[0].text]  # fmt: skip
        if claims and record.meta["wording"] == "paraphrase":
            assert not shared_words(record.question, claims[0], fact.questions)


def test_the_evidence_stands_everywhere():
    places = [(r.meta["evidence"]["passage"], len(r.passages)) for r in of("conflict")]
    assert {place for place, _ in places} >= set(range(6))
    assert {n for _, n in places} == set(range(3, 11))
    starts = [r.meta["evidence"]["start"] / len(r.passages[r.meta["evidence"]["passage"]]) for r in of("conflict")]
    assert min(starts) < 0.3 < 0.6 < max(starts)


def test_when_the_facts_are_used_up_they_come_with_other_answers():
    few = [fact for fact in FACTS.values() if fact.split == "development"][:3]
    records = questions("conflict", "development", 12, facts=few)
    assert {r.meta["fact"] for r in records} == {f.id for f in few}
    assert len({(r.meta["fact"], r.gold_context_answer) for r in records}) == 12
    assert len({r.id for r in records}) == 12


def test_only_facts_of_the_side_are_used():
    held = [fact for fact in FACTS.values() if fact.split == "held-out"][:2]
    with pytest.raises(RecordError, match="none of the 2 facts is development"):
        questions("conflict", "development", 1, facts=held)
    with pytest.raises(RecordError, match="none of the 0 facts"):
        questions("conflict", "development", 1, facts=[])
    both = questions("agreement", "held-out", 4, facts=list(FACTS.values()))
    assert all(FACTS[r.meta["fact"]].split == "held-out" for r in both)


@pytest.mark.parametrize(
    ("kind", "split", "n", "message"),
    [
        ("conflicts", "held-out", 1, "kind 'conflicts'"),
        ("novel", "test", 1, "development or held-out"),
        ("novel", "held-out", 0, "n=0"),
    ],
)
def test_bad_input(kind, split, n, message):
    with pytest.raises(RecordError, match=message):
        questions(kind, split, n)


def test_a_passage_that_cannot_be_written_is_an_error():
    import random

    with pytest.raises(RecordError, match=r"about 'gold': in 200 draws"):
        write(random.Random(0), "development", "gold", "it is so", ["More."], accept=lambda draft: False)


def test_facts_with_an_answer_that_the_distractors_know_stay_clean():
    fact = FACTS["capital-france"].model_copy(
        update={"answers": ("Berlin",), "alternatives": (("Rome",), ("Oslo",), ("Wien",))}
    )
    for record in questions("irrelevant", fact.split, 40, facts=[fact]):
        assert not any(contains_answer(p, ["Berlin", *record.meta["false_answer"]]) for p in record.passages)


def test_as_many_passages_as_asked_for():
    assert {len(r.passages) for r in questions("conflict", "development", 30, passages=(4, 5))} == {4, 5}
    assert {len(r.passages) for r in questions("disagree", "development", 5, passages=(12, 12))} == {12}
    for bad in ((2, 5), (5, 4)):
        with pytest.raises(RecordError, match="passages="):
            questions("conflict", "development", 1, passages=bad)


def test_records_can_be_written_and_read(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(r.model_dump_json() + "\n" for r in of("disagree")), encoding="utf-8")
    assert [r.id for r in read_records(path)] == [r.id for r in of("disagree")]


def test_wording():
    topic = ["Who painted it in Rome?", "Who made it in Rome?"]
    assert shared_words(topic[0], "the painter of it in Rome is {answer}", topic) == {"paint"}
    assert shared_words(topic[1], "the painter of it in Rome is {answer}", topic) == set()
    assert shared_words("How many legs does it have?", "it has {answer} legs", ["How many legs does it have?", "Legs?"]) == {
        "have"
    }  # fmt: skip
    pair = Pen("conflict", "development", 0, 0, (3, 3)).phrase(topic, ["the painter is {answer}"])
    assert pair == (topic[0], "the painter is {answer}", "same")
    pair = Pen("conflict", "development", 0, 1, (3, 3)).phrase(topic, ["the painter is {answer}"])
    assert pair == (topic[1], "the painter is {answer}", "paraphrase")


def test_the_data_is_small():
    from importlib.resources import files

    size = sum(len(f.read_bytes()) for f in (files("seka_rag.questions") / "data").iterdir())
    assert 0 < size < 400_000
