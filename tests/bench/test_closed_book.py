"""What a model knows without passages, found on the demo model, whose memory is known, and on SmolLM2."""

import copy
from dataclasses import replace

import pytest

from seka_rag import SteeredModel
from seka_rag.bench.closed_book import known_facts
from seka_rag.bench.measure import answers
from seka_rag.bench.methods import Variant
from seka_rag.bench.tasks.asking import question_item
from seka_rag.demo import real, words, world
from seka_rag.errors import SettingError
from seka_rag.learning.recall import recall
from seka_rag.questions.facts import SPLITS, Fact, load_facts
from seka_rag.questions.kinds import questions


@pytest.fixture(scope="module")
def demo():
    return SteeredModel.from_pretrained("seka-demo")


def of_world(person: int, relation: int, value: int) -> Fact:
    form, name = words.RELATIONS[relation], words.NAMES[person]
    others = [v for v in form.values if v != form.values[value]][:3]
    return Fact(
        id=f"{person}-{relation}-{value}",
        category="demo",
        topic="general",
        subject=name,
        answers=(form.values[value],),
        alternatives=tuple((v,) for v in others),
        questions=tuple(q.format(n=name) for q in form.questions),
        cloze=f"{name} has",
        statements=tuple(s.format(n=name, v="{answer}") for s in form.statements),
    )


REMEMBERED = [of_world(p, r, v) for (p, r), v in sorted(world.MEMORY.items())[:12]]
NEVER_TOLD = [of_world(p, r, (v + 1) % world.N_VALUES) for (p, r), v in sorted(world.MEMORY.items())[:12]]


def test_what_was_taught_is_known_and_nothing_else(demo):
    seen = []
    known = known_facts(demo, [*REMEMBERED, *NEVER_TOLD], batch_size=10, progress=lambda i, n: seen.append((i, n)))
    assert len([fact for fact in known if fact in REMEMBERED]) >= 11
    assert not [fact for fact in known if fact in NEVER_TOLD]
    assert seen == [(i, 72) for i in range(9, 73, 9)]  # as few batches as can be, of like size


def test_the_demo_asks_about_facts_that_are_answered(demo, monkeypatch):
    monkeypatch.setattr(real, "load_facts", lambda: (*REMEMBERED, *NEVER_TOLD))
    known = [fact for split in SPLITS for fact in real.known_to(demo, split)]
    assert {fact.id for fact in known} == {fact.id for fact in known_facts(demo, REMEMBERED)}


def test_answers_stay_with_their_questions(demo):
    together = recall(demo.hf_model, demo.tokenizer, REMEMBERED, batch_size=7)
    for fact, found in zip(REMEMBERED, together, strict=True):
        assert found.fact is fact
        assert found.answers == recall(demo.hf_model, demo.tokenizer, [fact])[0].answers
        assert len(found.answers) == len(found.right) == 3


def test_as_many_wordings_as_the_rule_asks_for(demo):
    (found,) = recall(demo.hf_model, demo.tokenizer, REMEMBERED[:1], wordings=2)
    assert len(found.answers) == 2
    one = REMEMBERED[0].model_copy(update={"questions": (REMEMBERED[0].questions[0], "Hello?", "What?")})
    (answers,) = recall(demo.hf_model, demo.tokenizer, [one])
    assert answers.right == (True, False, False)
    assert known_facts(demo, [one], at_least=1) == [one]
    assert known_facts(demo, [one]) == []
    assert known_facts(demo, []) == []


def test_without_a_chat_template_it_continues_a_question(demo):
    plain = SteeredModel(demo.hf_model, demo.tokenizer, bank=demo.bank)
    template, plain.tokenizer.chat_template = plain.tokenizer.chat_template, None
    try:
        assert len(known_facts(plain, REMEMBERED)) >= 11
    finally:
        plain.tokenizer.chat_template = template


@pytest.mark.parametrize(("template", "chat", "stop"), [(True, True, []), (True, False, ["\n"]), (False, True, ["\n"])])
def test_an_answer_outside_a_chat_ends_with_its_line(demo, monkeypatch, template, chat, stop):
    """In the benchmark too, where an item may want no chat although the tokenizer has a template."""
    tokenizer, stopped = copy.deepcopy(demo.tokenizer), []
    if not template:
        tokenizer.chat_template = None
    model = SteeredModel(demo.hf_model, tokenizer)
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda *a, **o: stopped.append(o["stop"]) or generate(*a, **o))
    (record,) = questions("novel", "development", 1)
    item = replace(question_item(record, "novel"), new_tokens=2, chat=chat)
    answers(model, [item], Variant("plain"))
    assert stopped == [stop]


@pytest.mark.parametrize(
    "bad", [{"at_least": 0}, {"at_least": 4}, {"wordings": 0, "at_least": 0}, {"batch_size": 0}, {"wordings": 9}]
)
def test_bad_settings(demo, bad):
    with pytest.raises(SettingError):
        known_facts(demo, REMEMBERED[:1], **bad)


@pytest.mark.real
def test_smollm2_knows_capitals_and_no_composers(smollm2):
    model = SteeredModel(*smollm2, bank=None, name="smollm2")
    names = ("capital-france", "capital-japan", "opposite-word-hot", "composer-opera-aida")
    facts = [fact for fact in load_facts() if fact.id in names]
    assert {f.id for f in known_facts(model, facts)} == set(names) - {"composer-opera-aida"}
