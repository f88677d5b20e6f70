"""Triples: what one must satisfy, the two ways to make them, and their file format."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seka_rag.errors import LearningError
from seka_rag.learning.cloze import document_triples
from seka_rag.learning.domains import DOMAINS
from seka_rag.learning.phrases import informative_phrases
from seka_rag.learning.tasks.lookup import template_triples
from seka_rag.learning.triples import ContrastiveTriple, read_triples, write_triples
from seka_rag.text.sentences import sentences
from seka_rag.text.spans import Span

LYON = "Ada Lovelace moved to Lyon in 1843. She kept a parrot and walked 12 miles every day with her umbrella."
OSLO = "Boris Holm was the mayor of Upper Oslo. He signed the charter of the harbour on a rainy morning in 1911."


def phrases(sentence: str) -> list[str]:
    frequency = dict.fromkeys(sentence.lower().replace(".", "").split(), 1)
    return [sentence[s.start : s.end] for s in informative_phrases(sentence, frequency)]


@pytest.mark.parametrize(
    ("context", "answer", "question", "irrelevant", "message"),
    [
        ("abc", Span(1, 4), "q", "r", "beyond the context of 3"),
        ("a  c", Span(1, 3), "q", "r", "blank"),
        ("abc", Span(0, 1), " ", "r", "empty"),
        ("abc", Span(0, 1), "q", "", "empty"),
        ("abc", Span(0, 1), "q", " q ", "is the question itself"),
    ],
)
def test_a_triple_checks_itself(context: str, answer: Span, question: str, irrelevant: str, message: str) -> None:
    with pytest.raises(LearningError, match=message):
        ContrastiveTriple(context, answer, question, irrelevant)


def test_answer_text_is_taken_by_place() -> None:
    assert ContrastiveTriple("ab ab", Span(3, 5), "q", "r").answer_text == "ab"


def test_templates_are_many_distinct_and_varied() -> None:
    triples = template_triples(600)
    assert len(set(triples)) == 600
    assert len(DOMAINS) >= 12
    assert {len(sentences(t.context)) for t in triples} == {1, 2, 3, 4}
    places = {sum(s.end <= t.answer.start for s in sentences(t.context)) for t in triples}
    assert places >= {0, 1, 2, 3}, "the answer stands in any sentence"
    assert len({t.answer_text for t in triples}) > 200
    assert len({t.question.split()[0] for t in triples}) > 8


def test_template_answers_are_values_and_questions_name_what_the_context_names() -> None:
    values = {value for domain in DOMAINS for fact in domain.facts for value in fact.values}
    names = [d.joiner.join((a, b)) for d in DOMAINS for a in d.first for b in d.second]
    for triple in template_triples(300, seed=3):
        assert triple.answer_text in values
        asked = max((n for n in names if n in triple.question), key=len)
        assert asked in triple.context
        other = max((n for n in names if n in triple.irrelevant_question), key=len)
        assert other.casefold() not in triple.context.casefold(), "not answerable from the context"
        assert "{" not in triple.context + triple.question + triple.irrelevant_question
        assert "  " not in triple.context


def test_every_template_has_its_fields_once() -> None:
    for domain in DOMAINS:
        for fact in domain.facts:
            assert all(s.count("{v}") == 1 and s.count("{n}") == 1 and s.endswith(".") for s in fact.statements)
            assert all(q.count("{n}") == 1 and "{v}" not in q and q.endswith("?") for q in fact.questions)
            assert len(set(fact.values)) >= 5


def test_templates_depend_on_the_seed_alone_and_grow_at_the_end() -> None:
    assert template_triples(40, 7) == template_triples(90, 7)[:40]
    assert template_triples(40, 7) != template_triples(40, 8)
    with pytest.raises(LearningError, match="n=0"):
        template_triples(0)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Ada Lovelace wrote to the Royal Society of London.", ["Ada Lovelace", "Royal Society of London"]),
        ("The Bank of England raised it to 5.25% on Monday.", ["Bank of England", "5.25%"]),
        ("It weighs 12 kilograms and costs $1,300 in all.", ["12 kilograms", "$1,300"]),
        ("J. R. Hartley found the manuscript.", ["J. R. Hartley", "manuscript"]),
        ("Chapter 7 is short.", []),
        ("The heron saw the heron.", []),
        ("They ran quickly.", []),
    ],
)
def test_informative_phrases(sentence: str, expected: list[str]) -> None:
    assert phrases(sentence) == expected


def test_cloze_of_two_passages() -> None:
    triples = document_triples([LYON, OSLO])
    assert {t.answer_text for t in triples} >= {"Ada Lovelace", "1843", "12 miles", "umbrella", "Upper Oslo", "1911"}
    by_answer = {t.answer_text: t for t in triples}
    assert by_answer["Boris Holm"].question == "Who or what was the mayor of Upper Oslo?"
    assert by_answer["1843"].question == "Fill in the blank: Ada Lovelace moved to Lyon in ___."
    for triple in triples:
        assert triple.context in (LYON, OSLO)
        assert triple.answer_text not in triple.question
    with_1843 = by_answer["1843"]
    assert any(with_1843.irrelevant_question == t.question for t in triples if t.context == OSLO)


def test_cloze_depends_on_texts_and_seed_alone() -> None:
    assert document_triples([LYON, OSLO], seed=4) == document_triples([LYON, OSLO], seed=4)
    assert document_triples([LYON, OSLO], seed=4) != document_triples([LYON, OSLO], seed=5)
    assert len(document_triples([LYON, OSLO], n=3)) == 3


def test_long_documents_are_cut_between_sentences() -> None:
    triples = document_triples([LYON + " " + OSLO], max_context=110)
    assert {t.context for t in triples} == {LYON, OSLO}


def test_question_writer() -> None:
    calls: list[tuple[str, str]] = []

    def writer(sentence: str, answer: str) -> str:
        calls.append((sentence, answer))
        return "" if answer == "1843" else f"What about {len(answer)} letters in {sentence[:9]}, number {len(calls)}?"

    triples = document_triples([LYON, OSLO], question_writer=writer)
    assert "1843" not in {t.answer_text for t in triples}
    assert all(t.question.startswith("What about ") for t in triples)
    assert all(answer in sentence for sentence, answer in calls)
    assert len(calls) == len(set(calls)) == len(triples) + 1


@pytest.mark.parametrize(
    "texts", [[], ["", " "], [LYON], [LYON, LYON], [LYON, "Short."], ["Is it so, and why is it?"] * 3]
)
def test_too_little_text_is_told_with_counts(texts: list[str]) -> None:
    with pytest.raises(LearningError, match=rf"no triples from {len(texts)} texts \(\d+ distinct contexts, \d+ with"):
        document_triples(texts)


@pytest.mark.parametrize("options", [{"n": 0}, {"max_context": 0}])
def test_arguments_out_of_range(options: dict) -> None:
    with pytest.raises(LearningError, match="give at least 1"):
        document_triples([LYON, OSLO], **options)
    with pytest.raises(LearningError, match="not one str"):
        document_triples(LYON)


@settings(max_examples=60)
@given(
    st.lists(
        st.lists(
            st.sampled_from(
                "Ada Boris Holm of the The harbour ledger 12 miles 1843 in was walrus. It said, né\n".split(" ")
            ),
            min_size=5,
            max_size=30,
        ).map(" ".join),
        max_size=5,
    ),
    st.integers(0, 3),
)
def test_cloze_answers_stand_where_they_are_said_to(texts: list[str], seed: int) -> None:
    try:
        triples = document_triples(texts, seed=seed)
    except LearningError:
        return
    for triple in triples:
        assert any(triple.context in text for text in texts)
        blank = triple.question.removeprefix("Fill in the blank: ")
        if blank != triple.question:
            before, after = blank.split("___")
            around = " ".join((before + triple.answer_text + after).split())
            assert around in " ".join(triple.context.split())
        assert triple.question != triple.irrelevant_question


def test_cloze_of_real_books(shared_data) -> None:
    texts = [p.read_text(encoding="utf-8") for p in sorted((shared_data / "docs").glob("*.txt"))]
    triples = document_triples(texts, n=200, seed=1)
    assert len(triples) == 200
    assert triples == document_triples(texts, n=200, seed=1)
    assert all(len(t.context) <= 800 or len(sentences(t.context)) == 1 for t in triples)
    assert all(t.answer_text in t.context for t in triples)


def test_files_keep_triples(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    triples = [*template_triples(20), ContrastiveTriple("日本\u2028x \n", Span(0, 2), "q", "r")]
    write_triples(path, triples)
    assert read_triples(path) == triples
    assert [p.name for p in tmp_path.iterdir()] == ["t.jsonl"]
    assert json.loads(path.read_text(encoding="utf-8").split("\n")[0]).keys() == {
        "context", "answer", "question", "irrelevant_question",
    }  # fmt: skip


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    old = template_triples(2)
    write_triples(path, old)

    def broken():
        yield old[0]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_triples(path, broken())
    assert read_triples(path) == old
    assert len(list(tmp_path.iterdir())) == 1
    for place in (tmp_path / "no" / "t.jsonl", "."):
        with pytest.raises(LearningError, match="cannot write triples to"):
            write_triples(place, old)


GOOD = '{"context": "abc", "answer": [0, 1], "question": "q", "irrelevant_question": "r"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: expected an object"),
        (GOOD.replace("question", "q", 1), "line 2: expected an object with exactly"),
        (GOOD.replace("[0, 1]", "[0]"), r"line 2: answer must be \[start, end\]"),
        (GOOD.replace("[0, 1]", "[0, true]"), "line 2: answer must be"),
        (GOOD.replace("[0, 1]", "[2, 1]"), "line 2: answer: empty span"),
        (GOOD.replace("[0, 1]", "[0, 9]"), "line 2: the answer .* reaches beyond"),
        (GOOD.replace('"abc"', "3"), "line 2: context, question"),
        (GOOD.replace('"r"', '"q"'), "line 2: the irrelevant question"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f"{GOOD}\n{line}\n", encoding="utf-8")
    with pytest.raises(LearningError, match=rf"t\.jsonl, {message}"):
        read_triples(path)


def test_files_without_triples(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with pytest.raises(LearningError, match="cannot read triples from"):
        read_triples(path)
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(LearningError, match="holds no triples"):
        read_triples(path)
    path.write_bytes(GOOD.encode() + b"\n\xff\n")
    with pytest.raises(LearningError, match="not UTF-8"):
        read_triples(path)
