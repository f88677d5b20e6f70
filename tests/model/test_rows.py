"""Calls as rows of one batch: the answer, report, pieces and end of each are those of the call alone."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import pytest

from seka_rag import Prompt, Seka, SteeredModel
from seka_rag.errors import ContextLengthError, GenerationTimeoutError, SettingError
from seka_rag.model.rows import checked_call, row_key, run_rows

NAMES = ["Alec", "Maud", "Edna", "Astrid", "Boris"]


def prompt(i):
    name, other = NAMES[i % 5], ["Oslo", "Lyon", "Rome"][i % 3]
    text = (
        f"{'Note. ' * (3 * i)}The home of {name} is in {other}.\n\nThe home of {name} is in Paris.\n\nWhere is {name}?"
    )
    start = text.index("The home") if i % 2 else text.rindex("The home")
    return Prompt(text).mark(start, start + 20 + i, 1 + i / 4)


@pytest.fixture(scope="module")
def demo():
    return SteeredModel.from_pretrained("seka-demo")


def call(model, i, **options):
    return checked_call(
        model, model.tokenize_chat([{"role": "user", "content": prompt(i)}]), **{"max_new_tokens": 6, **options}
    )


def test_rows_are_as_each_alone(demo):
    lengths = [6, 4, 8, 7, 5, 6]
    calls = [
        call(demo, i, max_new_tokens=n, steering=Seka(gain=2.0), repetition_penalty=1.3) for i, n in enumerate(lengths)
    ]
    assert len({row_key(c) for c in calls[:2]}) <= 2
    pieces = [[] for _ in calls]
    outcomes = run_rows(demo, [replace(c, pieces=p.append) for c, p in zip(calls, pieces, strict=True)])
    for i, (n, (answer,), emitted) in enumerate(zip(lengths, outcomes, pieces, strict=True)):
        options = {"max_new_tokens": n, "steering": Seka(gain=2.0), "repetition_penalty": 1.3}
        assert answer == demo.chat([{"role": "user", "content": prompt(i)}], **options)
        assert "".join(emitted) == answer.text
    assert len({answer.text for (answer,) in outcomes}) > 3
    assert {answer.report.tokens_edited for (answer,) in outcomes} > {5}


def test_a_length_of_its_own_ends_a_row(steered):
    """The random model never ends by itself."""
    calls = [call(steered, i, max_new_tokens=n) for i, n in enumerate([2, 9, 5])]
    outcomes = run_rows(steered, calls)
    assert [(a.completion_tokens, a.finish_reason) for (a,) in outcomes] == [
        (2, "length"),
        (9, "length"),
        (5, "length"),
    ]


def test_stop_strings_and_padding_that_is_no_end(steered):
    tokenizer = copy.deepcopy(steered.tokenizer)
    tokenizer.pad_token = "<|im_start|>"
    model = SteeredModel(steered.hf_model, tokenizer, bank=steered.bank)
    alone = [model.generate(prompt(i), max_new_tokens=12, steering=None) for i in (0, 1)]
    word = alone[0].text.split()[1]
    assert word not in alone[1].text
    cut = model.generate(prompt(0), max_new_tokens=12, steering=None, stop=word)
    assert cut.completion_tokens < 12
    together = model.generate([prompt(0), prompt(1)], max_new_tokens=12, steering=None, stop=word)
    assert [(g.text, g.completion_tokens, g.finish_reason) for g in together] == [
        (cut.text, cut.completion_tokens, "stop"),
        (alone[1].text, 12, "length"),
    ]


def test_a_row_ends_when_its_time_is_over_or_nobody_wants_it(steered):
    cancel = threading.Event()
    seen: list[str] = []

    def first(piece):
        seen.append(piece)
        cancel.set()

    late = replace(call(steered, 0, max_new_tokens=40), timeout=0.001)
    left = replace(call(steered, 1, max_new_tokens=40), cancel=cancel, pieces=first)
    good = call(steered, 2, max_new_tokens=40)
    outcomes = run_rows(steered, [late, left, good])
    assert isinstance(outcomes[0], GenerationTimeoutError)
    assert len(seen) <= 2  # of 40
    assert outcomes[2][0].text == steered.chat([{"role": "user", "content": prompt(2)}], max_new_tokens=40).text


def test_which_calls_may_be_together(demo):
    same = [call(demo, i) for i in (0, 1)]
    assert row_key(same[0]) == row_key(same[1]) is not None
    for changed in ({"steering": Seka(gain=1.0)}, {"stop": "x"}, {"repetition_penalty": 1.5}, {"max_new_tokens": 500}):
        assert row_key(call(demo, 0, **changed)) not in (None, row_key(same[0]))
    plain = checked_call(demo, demo.tokenize("Alec"), max_new_tokens=6)
    assert row_key(plain) not in (None, row_key(same[0]))
    sampled = {"temperature": 1.0}
    for alone in ({"seed": 1, **sampled}, {"json_schema": True}, {"num_return_sequences": 2, **sampled}):
        assert row_key(call(demo, 0, **alone)) is None
    assert row_key(replace(same[0], prefix=demo.prefill("x"))) is None
    assert row_key(call(demo, 0, temperature=1.0)) == row_key(call(demo, 1, temperature=1.0)) is not None


def test_what_is_wrong_is_found_before_it_waits(demo):
    with pytest.raises(ContextLengthError):
        call(demo, 0, max_new_tokens=2040)
    with pytest.raises(SettingError):
        call(demo, 0, json_schema={"type": 3})


def test_an_error_of_the_batch_is_the_error_of_each(demo, monkeypatch):
    calls = [call(demo, i) for i in range(3)]
    error = RuntimeError("no memory")

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(demo.hf_model, "generate", fail)
    assert run_rows(demo, calls) == [error] * 3
