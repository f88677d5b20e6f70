"""Forms of questions for ``measure_highlighters``: as people chat, and in other languages than English.

All of it is invented and made by templates, the same from the same seed. Names and values of the two sides of the split
differ, and so do the chats.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from seka_rag.questions.facts import Split
from seka_rag.questions.records import Record

#: What stands around a question in a chat. A question with a capital begins a sentence.
_CHATS: dict[Split, tuple[str, ...]] = {
    "development": (
        "Hi there! I hope you are well. My sister and I have been arguing about this over lunch, and neither of us is sure. "
        "{question} Thanks a lot!",
        "ok so this is for a quiz tonight and I really don't want to look stupid in front of my colleagues lol. {question}",
        "Thanks, that helped with the other thing. One more while you are at it, then I will leave you in peace: {question}",
        "Good morning, I am new in the office and still finding my way around the files. {question} Sorry if it is obvious.",
    ),
    "held-out": (
        "Hello! I was tidying up my notes yesterday evening and came across something that I had never written down properly. "
        "{question} I would be grateful for a quick reply.",
        "hey, quick one before my train leaves, my phone is nearly dead so please keep it short. {question}",
        "Great, I see. Now to something else that has been on my mind since the meeting last week: {question}",
        "Dear assistant, my manager asked me to find this out and I have no idea where to begin. {question} Many thanks.",
    ),
}

_NAMES: dict[Split, tuple[str, ...]] = {
    "development": (
        "Marek Dorn", "Livia Sorel", "Anselm Krug", "Petra Vance", "Ida Lomax", "Jonas Brandt", "Nora Quist", "Emil Castell",
        "Rosa Bellini", "Tomas Erben", "Clara Mott", "Hugo Lenz",
    ),
    "held-out": (
        "Viktor Hale", "Mina Oster", "Bruno Salas", "Greta Lind", "Oskar Prime", "Lea Morand", "Pablo Ruhn", "Edda Corvin",
        "Felix Aumont", "Sofia Trask", "Karl Benneke", "Alma Rive",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _Relation:
    """One thing to know of a person: how it is stated and asked, the first question in the words of the first statement."""

    statements: tuple[str, str]
    questions: tuple[str, str]
    values: tuple[str, ...]


_LANGUAGES: dict[str, tuple[_Relation, ...]] = {
    "German": (
        _Relation(
            ("{n} wohnt seit einigen Jahren in {v}.", "Die Wohnung von {n} liegt mitten in {v}."),
            ("In welcher Stadt wohnt {n}?", "Wo ist {n} zu Hause?"),
            ("Lübeck", "Graz", "Bern", "Potsdam", "Linz", "Trier", "Ulm", "Basel"),
        ),
        _Relation(
            ("{n} arbeitet als {v}.", "Von Beruf ist {n} {v}."),
            ("Als was arbeitet {n}?", "Womit verdient {n} Geld?"),
            ("Tischler", "Apotheker", "Lehrer", "Gärtner", "Lokführer", "Bäcker", "Architekt", "Uhrmacher"),
        ),
        _Relation(
            ("{n} spielt am liebsten {v}.", "Jeden Abend übt {n} eine Stunde lang {v}."),
            ("Was spielt {n} am liebsten?", "Welches Instrument beherrscht {n}?"),
            ("Cello", "Klarinette", "Harfe", "Trompete", "Orgel", "Flöte", "Geige", "Akkordeon"),
        ),
        _Relation(
            ("{n} wurde im Jahr {v} geboren.", "Auf die Welt kam {n} im Winter {v}."),
            ("Wann wurde {n} geboren?", "Aus welchem Jahrgang ist {n}?"),
            ("1961", "1968", "1973", "1979", "1982", "1986", "1990", "1994"),
        ),
    ),
    "French": (
        _Relation(
            ("{n} habite depuis longtemps à {v}.", "L'appartement de {n} se trouve au centre de {v}."),
            ("Dans quelle ville habite {n}?", "Où est le domicile de {n}?"),
            ("Nantes", "Dijon", "Liège", "Genève", "Rouen", "Metz", "Angers", "Namur"),
        ),
        _Relation(
            ("{n} travaille comme {v}.", "Depuis ses études, {n} exerce le métier de {v}."),
            ("Comme quoi travaille {n}?", "Quelle est la profession de {n}?"),
            ("menuisier", "pharmacien", "professeur", "jardinier", "boulanger", "architecte", "horloger", "notaire"),
        ),
        _Relation(
            ("{n} joue surtout {v}.", "Tous les soirs, {n} répète une heure {v}."),
            ("De quoi joue surtout {n}?", "Quel instrument pratique {n}?"),
            (
                "du violoncelle", "de la clarinette", "de la harpe", "de la trompette", "de l'orgue", "de la flûte",
                "du violon", "de l'accordéon",
            ),
        ),
        _Relation(
            ("{n} est né en {v}.", "La naissance de {n} remonte à l'hiver {v}."),
            ("Quand est né {n}?", "De quelle année est {n}?"),
            ("1961", "1968", "1973", "1979", "1982", "1986", "1990", "1994"),
        ),
    ),
    "Spanish": (
        _Relation(
            ("{n} vive desde hace años en {v}.", "El piso de {n} está en el centro de {v}."),
            ("¿En qué ciudad vive {n}?", "¿Dónde tiene su casa {n}?"),
            ("Burgos", "Quito", "Murcia", "Rosario", "Cádiz", "Lugo", "Puebla", "Huesca"),
        ),
        _Relation(
            ("{n} trabaja de {v}.", "Desde que acabó la carrera, {n} ejerce como {v}."),
            ("¿De qué trabaja {n}?", "¿Cuál es la profesión de {n}?"),
            ("carpintero", "farmacéutico", "maestro", "jardinero", "panadero", "arquitecto", "relojero", "notario"),
        ),
        _Relation(
            ("{n} toca sobre todo {v}.", "Todas las noches, {n} ensaya una hora {v}."),
            ("¿Qué toca sobre todo {n}?", "¿Qué instrumento domina {n}?"),
            ("el violonchelo", "el clarinete", "el arpa", "la trompeta", "el órgano", "la flauta", "el violín", "el acordeón"),
        ),
        _Relation(
            ("{n} nació en el año {v}.", "El nacimiento de {n} fue en el invierno de {v}."),
            ("¿En qué año nació {n}?", "¿De qué quinta es {n}?"),
            ("1961", "1968", "1973", "1979", "1982", "1986", "1990", "1994"),
        ),
    ),
}  # fmt: skip

#: Sentences that fit anywhere.
_AROUND = {
    "German": (
        "Das Heft wurde im Frühjahr gedruckt.",
        "Am Abend begann es zu regnen.",
        "Der Verein trifft sich am Montag.",
    ),
    "French": (
        "Le cahier a été imprimé au printemps.",
        "Le soir, il s'est mis à pleuvoir.",
        "Le club se réunit le lundi.",
    ),
    "Spanish": (
        "El cuaderno se imprimió en primavera.",
        "Por la tarde empezó a llover.",
        "La asociación se reúne los lunes.",
    ),
}


def as_chat(record: Record, split: Split) -> Record:
    """The question inside what people write around one."""
    chats = _CHATS[split]
    chat = chats[sum(record.id.encode()) % len(chats)]
    question = record.question[:1].upper() + record.question[1:]
    if not question.rstrip().endswith("?"):
        question += "?"
    return record.model_copy(update={"question": chat.replace("{question}", question)})


def in_other_languages(split: Split, n: int, *, passages: int = 10) -> list[Record]:
    """``n`` questions in German, French and Spanish in turn, each over passages of its language.

    One passage answers; the others tell the same of somebody else, other things of the same person, or other things of others.
    Every second question repeats the words of the sentence that answers it.
    """
    made = _made(split, passages)
    return [next(made) for _ in range(n)]


def _made(split: Split, count: int) -> Iterator[Record]:
    number = 0
    while True:
        for language, relations in _LANGUAGES.items():
            yield _record(split, language, relations, number, count)
        number += 1


def _record(split: Split, language: str, relations: tuple[_Relation, ...], number: int, count: int) -> Record:
    rng = random.Random(f"{split} {language} {number}")
    name, *others = rng.sample(_NAMES[split], len(_NAMES[split]))
    at, wording = rng.randrange(len(relations)), number % 2
    asked, rest = relations[at], [r for k, r in enumerate(relations) if k != at]
    answer, *values = rng.sample(asked.values, len(asked.values))
    question = asked.questions[wording].replace("{n}", name)

    def stated(relation: _Relation, who: str, value: str, form: int) -> str:
        return relation.statements[form].replace("{n}", who).replace("{v}", value)

    def passage(sentence: str) -> str:
        lines = [sentence, *rng.sample(_AROUND[language], 2)]
        return " ".join(rng.sample(lines, len(lines)))

    same = [stated(asked, who, value, rng.randrange(2)) for who, value in zip(others, values, strict=False)]
    about = [stated(r, name, rng.choice(r.values), rng.randrange(2)) for r in rest]
    far = [stated(r, who, rng.choice(r.values), 0) for who in others[len(same) :] for r in [rng.choice(rest)]]
    distractors = [*about, *same, *far][: count - 1]
    texts = [passage(text) for text in (stated(asked, name, answer, 0), *distractors)]
    order = rng.sample(range(len(texts)), len(texts))
    return Record(
        id=f"{language}-{split}-{number}",
        dataset="other languages",
        question=question,
        passages=tuple(texts[k] for k in order),
        gold_context_answer=(answer,),
        parametric_answer=None,
        highlights=(),
        meta={"wording": ("same", "paraphrase")[wording], "language": language},
    )
