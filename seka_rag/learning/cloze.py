"""Triples from a user's own documents, without a language model: questions with a blank."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from seka_rag.errors import LearningError
from seka_rag.learning.phrases import informative_phrases
from seka_rag.learning.triples import ContrastiveTriple
from seka_rag.text.sentences import sentences
from seka_rag.text.spans import Span
from seka_rag.text.words import words

#: A verb after the subject that lets "Who or what" take the subject's place.
_VERBS = ("is", "was", "are", "were", "has", "had", "can", "could", "will", "would", "became", "made", "wrote", "said")
_BLANK = "___"
#: Draws of an irrelevant question before a triple is given up.
_DRAWS = 50


@dataclass(frozen=True, slots=True)
class _Cloze:
    """One answer of one sentence: ``answer`` counts in ``sentence``, and that in the context."""

    context: int
    sentence: Span
    answer: Span


def document_triples(
    texts: Sequence[str],
    n: int = 300,
    seed: int = 0,
    question_writer: Callable[[str, str], str] | None = None,
    *,
    max_context: int = 800,
) -> list[ContrastiveTriple]:
    """Triples from passages: a name, a number or a rare word of a sentence is the answer, its sentence the question.

    The question is the sentence with a blank in place of the answer, or with "Who or what" where the answer is its
    subject. The irrelevant question comes from another context, and its answer does not occur in this one.

    Args:
        texts: passages or documents; long ones are cut into contexts between sentences.
        n: the most triples to make, at least 1.
        seed: the same texts and seed give the same triples (if ``question_writer`` does).
        question_writer: writes the question from (sentence, answer), for instance by a language model. Called once
            for each answer used; an empty result leaves it out.
        max_context: the most characters of a context; a single longer sentence is kept whole.

    Returns:
        At most ``n`` triples; fewer where the texts hold fewer answers. Contexts take turns.

    Raises:
        LearningError: an argument out of range, or no triple can be made; the message counts what was found.
    """
    if isinstance(texts, str):
        raise LearningError("texts must be a list of passages, not one str")
    if n < 1 or max_context < 1:
        raise LearningError(f"n={n}, max_context={max_context}: give at least 1")
    contexts = list(dict.fromkeys(c for text in texts for c in _contexts(text, max_context)))
    rng = random.Random(seed)
    chosen: list[tuple[_Cloze, str]] = []
    for cloze in _in_turn(_all_clozes(contexts), rng):
        if len(chosen) == n:
            break
        sentence = contexts[cloze.context][cloze.sentence.start : cloze.sentence.end]
        question = _question(sentence, cloze.answer, question_writer)
        if question.strip():
            chosen.append((cloze, question))
    usable = len({cloze.context for cloze, _ in chosen})
    found = f"{len(texts)} texts ({len(contexts)} distinct contexts, {usable} with a usable answer)"
    if usable < 2:
        raise LearningError(f"no triples from {found}: at least 2 are needed; give more or longer prose")
    triples = [t for cloze, question in chosen if (t := _triple(contexts, cloze, question, chosen, rng))]
    if not triples:
        raise LearningError(f"no triples from {found}: the contexts are too alike to ask what one of them lacks")
    return triples


def _contexts(text: str, max_context: int) -> Iterator[str]:
    """The text in parts of whole sentences."""
    start = end = 0
    for span in sentences(text):
        if end and span.end - start > max_context:
            yield text[start:end]
            start = span.start
        elif not end:
            start = span.start
        end = span.end
    if end:
        yield text[start:end]


def _all_clozes(contexts: Sequence[str]) -> list[list[_Cloze]]:
    """The candidate answers of each context."""
    frequency = Counter(word for context in contexts for word in set(words(context)))
    return [list(_clozes(i, context, frequency)) for i, context in enumerate(contexts)]


def _clozes(index: int, context: str, frequency: Counter[str]) -> Iterator[_Cloze]:
    for sentence in sentences(context):
        text = context[sentence.start : sentence.end]
        if _is_prose(text):
            for answer in informative_phrases(text, frequency):
                yield _Cloze(index, sentence, answer)


def _is_prose(sentence: str) -> bool:
    """Neither a question nor a heading, a table or a blank to fill already."""
    letters = sum(map(str.isalpha, sentence))
    few = 5 <= len(sentence.split()) <= 60
    return few and letters >= 0.6 * len(sentence) and not sentence.endswith("?") and _BLANK not in sentence


def _in_turn(groups: list[list[_Cloze]], rng: random.Random) -> Iterator[_Cloze]:
    """One of each group, shuffled, then another of each: no long context crowds out the others."""
    for group in groups:
        rng.shuffle(group)
    order = [group for group in groups if group]
    rng.shuffle(order)
    for turn in range(max(map(len, order), default=0)):
        yield from (group[turn] for group in order if turn < len(group))


def _question(sentence: str, answer: Span, writer: Callable[[str, str], str] | None) -> str:
    if writer is not None:
        return writer(sentence, sentence[answer.start : answer.end])
    one_line = " ".join((sentence[: answer.start] + _BLANK + sentence[answer.end :]).split())
    rest = one_line.removeprefix(_BLANK + " ")
    if rest != one_line and rest.split(" ", 1)[0] in _VERBS and rest.endswith("."):
        return f"Who or what {rest[:-1]}?"
    return f"Fill in the blank: {one_line}"


def _triple(
    contexts: Sequence[str], cloze: _Cloze, question: str, others: Sequence[tuple[_Cloze, str]], rng: random.Random
) -> ContrastiveTriple | None:
    context = contexts[cloze.context]
    start = cloze.sentence.start + cloze.answer.start
    for _ in range(_DRAWS):
        other, irrelevant = rng.choice(others)
        sentence = contexts[other.context][other.sentence.start : other.sentence.end]
        if other.context == cloze.context or irrelevant.strip() == question.strip():
            continue
        if sentence[other.answer.start : other.answer.end].casefold() not in context.casefold():
            return ContrastiveTriple(context, Span(start, start + len(cloze.answer)), question, irrelevant)
    return None
