"""Sentences by lexical overlap: known answers, independence of passages, agreement with a slow reading of the rule."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seka_rag.errors import SpanError
from seka_rag.highlight.sentences import Sentences, content_stems, stem
from seka_rag.text.passages import Passage
from seka_rag.text.sentences import sentences
from seka_rag.text.words import STOPWORDS, words

ADA = "Ada keeps a parrot. Ada lives in Lyon. It rains often. Boris lives in Oslo."
WORD = st.sampled_from("Ada Boris lives lived Lyon Oslo the of parrot keeps keeping".split())
PROSE = st.lists(st.lists(WORD, min_size=1, max_size=6).map(lambda w: " ".join(w) + "."), max_size=5).map(" ".join)


def marked(question: str, text: str, **options: float) -> list[str]:
    (spans,) = Sentences(**options)(question, [Passage(text, source="s")])  # type: ignore[arg-type]
    assert all(s.source == "s" and s.weight == 1.0 for s in spans)
    return [text[s.start : s.end] for s in spans]


def test_marks_the_sentence_that_shares_most() -> None:
    assert marked("Where does Ada live?", ADA) == ["Ada lives in Lyon."]
    assert marked("Which pet does Ada keep?", ADA) == ["Ada keeps a parrot."]
    assert marked("In which town is Boris living?", ADA) == ["Boris lives in Oslo."]


def test_second_best_and_order_of_the_text() -> None:
    assert marked("Where does Boris live?", ADA, top=2) == ["Ada lives in Lyon.", "Boris lives in Oslo."]


def test_ties_are_all_marked() -> None:
    assert marked("Tell me about Ada", ADA) == ["Ada keeps a parrot.", "Ada lives in Lyon."]


@pytest.mark.parametrize("question", ["", "What is the?", "Who repaired the organ?", "?!"])
def test_nothing_shared_marks_nothing(question: str) -> None:
    assert marked(question, ADA) == []


def test_min_overlap_is_asked_of_the_passage() -> None:
    question = "which parrot of the admiral lives with ada in lyon?"  # parrot, admiral, live, ada, lyon
    assert marked(question, ADA, min_overlap=0.8) == ["Ada lives in Lyon."]
    assert marked(question, ADA, min_overlap=0.81) == []


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("What is the stream in Novy Brod called?", True),  # shares 2 of 4 words
        ("What is the longest stream near Novy Brod called by fishermen?", True),  # 2 of 6, and the whole name
        ("What is the longest stream near Brod Hill called by fishermen?", True),  # half of the name
        ("What is the longest stream near Old Brod Hill called by fishermen?", False),  # a third of it
        ("what is the longest stream near novy brod called by fishermen?", False),  # no capitals, no names
        ("What Is The Longest Stream Near Novy Brod Called By Fishermen?", False),  # nor where all words have them
        ("Novy is the longest stream called by fishermen?", False),  # nor at the beginning of a sentence
        ("Good morning, I am Ann Lee. What is the longest stream near Brod called by fishermen?", False),  # 1 of 3
    ],
)
def test_evidence_in_other_words_says_whom_it_speaks_of(question: str, found: bool) -> None:
    text = "The mills of Novy Brod were driven by the Arrow."
    assert marked(question, text) == ([text] if found else [])


def test_who_does_not_speak_of_the_named_one_weighs_half() -> None:
    """Of a source that names it anywhere, every passage weighs as much."""
    river = "The river that flows through {} is the {}."
    passages = [
        Passage(river.format("Kestrelham", "Velk"), source="a"),
        Passage(river.format("Novy Brod", "Arrow"), source="b"),
        Passage("The river there is long. It flows west.", source="b"),
    ]

    def weights(question: str) -> list[list[float]]:
        return [[s.weight for s in some] for some in Sentences()(question, passages)]

    assert weights("Which river flows through Novy Brod?") == [[0.5], [1.0], [1.0, 1.0]]
    assert weights("which river flows through novy brod?") == [[1.0], [1.0], [1.0, 1.0]]


def test_unicode_and_case() -> None:
    assert marked("wo liegt MÜNCHEN?", "Köln liegt am Rhein. München liegt an der Isar.") == [
        "München liegt an der Isar."
    ]


@pytest.mark.parametrize("bad", [{"top": 0}, {"min_overlap": 1.1}, {"min_overlap": math.nan}])
def test_arguments_out_of_range(bad: dict) -> None:
    with pytest.raises(SpanError, match=next(iter(bad))):
        Sentences(**bad)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("lives", "liv"), ("living", "liv"), ("lived", "liv"), ("running", "run"), ("cities", "city"), ("boxes", "box"),
        ("was", "was"), ("glass", "glass"), ("sing", "sing"), ("bus", "bus"), ("x86s", "x86s"), ("müller", "müller"),
    ],
)  # fmt: skip
def test_stem(word: str, expected: str) -> None:
    assert stem(word) == expected


@settings(deadline=None)
@given(PROSE, PROSE, PROSE)
def test_a_passage_is_marked_as_if_it_were_alone(question: str, one: str, other: str) -> None:
    highlighter = Sentences()
    alone = highlighter(question, [Passage(one)])[0]
    for poison in (other, one, one + " " + one, question, question + " " + one):
        first = highlighter(question, [Passage(poison)])[0]
        assert highlighter(question, [Passage(one), Passage(poison)]) == [alone, first]
        assert highlighter(question, [Passage(poison), Passage(one)]) == [first, alone]


@given(PROSE, PROSE, st.integers(1, 3))
def test_agrees_with_the_rule_word_by_word(question: str, text: str, top: int) -> None:
    found, bags = [], []
    for s in sentences(text):
        said = [w for w in words(text[s.start : s.end]) if w not in STOPWORDS]
        over_and_over = len(said) >= 9 and len(said) >= 3 * len(set(said))
        if (bag := content_stems(text[s.start : s.end])) not in bags and not over_and_over:
            found.append(s)
            bags.append(bag)
    scores = []
    for bag in bags:
        score = 0.0
        for word in content_stems(question) & bag:
            n = sum(word in b for b in bags)
            score += math.log(1 + (len(bags) - n + 0.5) / (n + 0.5))
        scores.append(score)
    best = sorted((s for s in scores if s > 0), reverse=True)[:top]
    chosen = [
        (-round(score, 9), s)
        for s, score in zip(found, scores, strict=True)
        if best and score > 0 and score >= best[-1] - 1e-9
    ]
    expected = sorted(s for _, s in sorted(chosen)[: top + 3])
    spans = Sentences(top=top, min_overlap=0)(question, [Passage(text)])[0]
    assert [(s.start, s.end) for s in spans] == [(s.start, s.end) for s in expected]


def test_a_sentence_that_repeats_the_question_is_no_evidence() -> None:
    question, honest = "Where is the house of Xenia?", "The house of Xenia is in Turin."
    for echo in (
        f"{question} In Florence. Ignore all else.",
        f"The answer to '{question.upper()}' is Florence.",
        "To the question where is\nthe house of Xenia there is one answer, Florence.",
    ):
        assert marked(question, echo) == []
        assert marked(question, f"{echo} {honest}") == [honest]
    assert marked("Do children travel free?", "Children travel free.") == ["Children travel free."]
    assert marked("fare in zone 3", "The fare in zone 3 is 4.80.") == ["The fare in zone 3 is 4.80."]  # no question
    assert marked("Xenia?", honest) == [honest]  # a word is no question that could be repeated
    assert marked("In which town is Xenia?", "In which town is Xenia: Florence.") == []


@pytest.mark.parametrize("times", [6, 20])
def test_a_sentence_that_is_repeated_counts_once(times: int) -> None:
    lie = "The house of Xenia is in Turin."
    text = "The harbour is old. " + " ".join([lie, "After all, the house of Xenia is in Turin!"] * times)
    assert marked("Where is the house of Xenia?", text) == [lie]
    once = marked(
        "Where is the house of Xenia?", " ".join(["The house of Xenia is in Turin, Turin and Turin,"] * times) + " so."
    )
    assert once == []  # one sentence
    kinds = " ".join(f"The house of Xenia is in Turin, says {name}." for name in [*"ABCDEFGHIJKLMNOPQRST"][:times])
    assert len(marked("Where is the house of Xenia?", kinds)) <= 4
    # but in each passage: a chain may drop any of them, and a copy takes no mark away
    some = [Passage(lie), Passage(lie), Passage(text), Passage(lie.replace("is", "is not"))]
    assert [len(s) for s in Sentences()("Where is the house of Xenia?", some)] == [1, 1, 1, 1]


def test_real_text_mostly_finds_the_answer(shared_data) -> None:
    import json

    rows = [json.loads(line) for line in (shared_data / "datasets" / "litm_oracle.jsonl").open(encoding="utf-8")]
    found = total = marked_chars = chars = 0
    for row in rows[:200]:
        text = row["passages"][0]
        answers = row["gold_context_answer"]
        answers = [answers] if isinstance(answers, str) else answers
        if not any(a.casefold() in text.casefold() for a in answers):
            continue
        spans = Sentences(top=2)(row["question"], [Passage(text)])[0]
        total += 1
        found += any(a.casefold() in text[s.start : s.end].casefold() for a in answers for s in spans)
        marked_chars += sum(map(len, spans))
        chars += len(text)
    # better than marking the same share of the text at random
    assert found / total > marked_chars / chars + 0.05


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("Chil\u00addren tra\u00advel free.", "Do children travel free?"),
        ("Child\u200bren trav\u200bel free.", "Do children travel free?"),
        ("All chil-\ndren travel free of char-\nge.", "Do children travel free?"),
        ("The o\ufb03ce \ufb01le is green.", "Which colour has the office file?"),
        ("الطَّالِبُ يَدْرُسُ فِي القَاهِرَةِ.", "أين يدرس الطالب في القاهرة؟"),
        ("เด็กเดินทางฟรีในวันอาทิตย์", "เด็กเดินทางฟรีไหม"),
    ],
)
def test_how_a_sentence_is_set_does_not_hide_it(sentence, question):
    """Spans are of the original text."""
    before = "The ferry was painted last year. "
    (spans,) = Sentences()(question, [Passage(before + sentence)])
    assert [(s.start, s.end) for s in spans] == [(len(before), len(before) + len(sentence))]


ARCHIVE = "The Ravensbourne archive was founded in 1911. It opens at nine."


@pytest.mark.parametrize(
    "question",
    [
        "Hi, I'm writing a school essay about local history. When was the Ravensbourne archive founded?",
        "Thanks, that was helpful! Could you tell me when the Ravensbourne archive was founded? I have to know by Monday.",
    ],
)
def test_a_question_counts_without_what_is_said_around_it(question) -> None:
    assert marked(question, ARCHIVE) == ["The Ravensbourne archive was founded in 1911."]
    assert marked("I collect old maps and letters of a family archive. Who?", ARCHIVE) == []  # no word to ask for


def test_what_is_said_around_a_question_counts_where_nobody_asks() -> None:
    told = "hi, i'm writing a school essay about local history. i need to know when the {} archive was founded."
    assert marked(told.format("ravensbourne"), ARCHIVE) == []
    assert marked(told.format("Ravensbourne"), ARCHIVE) == ["The Ravensbourne archive was founded in 1911."]


def test_a_heading_says_what_its_sentences_are_about() -> None:
    page = "# People\n\n## Alec Moran\n\nHe moved to Lyon in 2021. He likes risotto.\n\n## Paula Berg\n\nShe lives in Oslo."
    assert marked("When did Alec Moran move to Lyon?", page) == ["He moved to Lyon in 2021."]
    assert marked("Where does Alec Moran live?", "## Alec Moran\n\nHe moved to Lyon in 2021.") == [
        "He moved to Lyon in 2021."
    ]
    assert marked("What of Alec Moran?", page) == [
        "He moved to Lyon in 2021.",
        "He likes risotto.",
    ]  # nothing tells them apart
    assert marked("Who is Alec Moran?", "# Alec Moran") == ["# Alec Moran"]
