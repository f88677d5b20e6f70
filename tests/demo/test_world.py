"""The demo's world: its splits share nobody, its tokens are words, its spans hold their statements."""

import numpy as np
import pytest
from tiny import demo_tokenizer

from seka_rag.demo import trials, world
from seka_rag.demo import words as w
from seka_rag.demo.trials import make_trials
from tools.demo_training import lessons

KINDS = ("conflict", "disagree", "novel", "agreement", "irrelevant", "closed book")


def test_every_name_and_value_is_one_token_in_either_case():
    tokenizer = demo_tokenizer()
    values = [v for r in w.RELATIONS for v in r.values]
    for word in [*w.NAMES, *values, *(v.upper() for v in values)]:
        assert len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1, word


def test_the_lists_are_whole():
    assert len(w.NAMES) == len(set(w.NAMES)) == 500
    values = [v for r in w.RELATIONS for v in r.values]
    assert len(values) == len(set(values)) == 200
    assert set(w.JOB_HINTS) == set(w.JOBS)
    assert set(w.SHE) | set(w.HE) <= set(w.NAMES)
    assert len(world.MEMORY) == 600


def test_decoding_gives_readable_text_back():
    tokenizer = demo_tokenizer()
    text = "Ada lives in Lyon. Where does Ada live?\nNo, Ada is out."
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    odd = tokenizer.decode(tokenizer("Zebulon", add_special_tokens=False)["input_ids"])
    assert odd == "Zebulon"


@pytest.mark.parametrize("split", ["development", "held-out"])
@pytest.mark.parametrize("kind", KINDS)
def test_trials_are_what_they_say(kind, split):
    some = make_trials(kind, 40, split)
    assert some == make_trials(kind, 40, split)
    for t in some:
        if t.evidence and kind != "irrelevant":
            statement = t.text[t.evidence.start : t.evidence.end]
            assert t.answer in statement
            assert statement.endswith(".")
        if kind == "conflict":
            asked = t.text.replace("?", " ").replace(".", " ").replace(",", " ").split()
            assert (
                not set(t.text[t.wrong.start : t.wrong.end].split())
                & set(w.NAMES)
                & {name for name in asked if asked.count(name) > 1}
            )
            assert t.other != t.answer
        if kind == "disagree":
            assert t.other in t.text[t.wrong.start : t.wrong.end]
        if kind == "irrelevant":
            assert t.answer not in t.text[t.evidence.start : t.evidence.end]


def test_the_splits_share_no_person():
    people = {
        split: {
            name
            for kind in KINDS
            for t in make_trials(kind, 60, split)
            for name in w.NAMES
            if name in t.text.replace("?", " ").replace(".", " ").replace(",", " ").split()
        }
        for split in ("development", "held-out")
    }
    # filler words are no names; who is asked or told about in one split never is in the other
    assert not people["development"] & people["held-out"]


def test_held_out_pairings_are_never_stated_in_training():
    rng = np.random.default_rng(0)
    held = {
        (w.NAMES[p], v)
        for p in range(world.KNOWN, 500)
        for r in w.RELATIONS
        for i, v in enumerate(r.values)
        if world.held_out_fact(p, i)
    }
    for phase in (lessons.READ, lessons.WEIGH):
        for _ in range(300):
            text = lessons.write_lesson(rng, phase, 8).text
            for sentence in text.replace("\n", ".").split("."):
                words = sentence.replace(",", "").split()
                names = [x for x in words if x in w.NAMES]
                if len(names) == 1 and not sentence.startswith("Repeat"):
                    assert not {(names[0], x) for x in words} & held


def test_lessons_learn_only_answers():
    rng = np.random.default_rng(3)
    for phase in (lessons.COPY, lessons.READ, lessons.WEIGH):
        for _ in range(60):
            lesson = lessons.write_lesson(rng, phase, 6)
            assert lesson.learned
            assert all(lesson.text[:end].endswith("<|im_end|>") for _, end in lesson.learned)


def test_lessons_use_the_real_chat_template():
    tokenizer = demo_tokenizer()
    lesson = lessons.Lesson(np.random.default_rng(0))
    lesson.chat, lesson.text = True, "<|bos|>"
    lesson.ask("Where does Ada live?", "Lyon")
    messages = [{"role": "user", "content": "Where does Ada live?"}, {"role": "assistant", "content": "Lyon"}]
    assert lesson.text == tokenizer.apply_chat_template(messages, tokenize=False)


def test_contrastive_triples_are_about_development_people():
    for triple in trials.demo_triples(30):
        assert triple.answer_text.endswith(".")
        names = [n for n in w.NAMES if f"{n}" in triple.question.replace("?", " ").split()]
        assert not any(world.held_out_person(w.NAMES.index(n)) for n in names)
