"""MemoTrap: end a proverb with a demanded word instead of the usual one."""

from __future__ import annotations

from typing import ClassVar

from seka_rag.bench.item import Item, Opening, at, highlights_of
from seka_rag.bench.tasks.base import Source, Task
from seka_rag.errors import RecordError
from seka_rag.questions.records import Highlight, Record

_DEMAND = 'Write a quote that ends in the word "{word}":'
#: Beginning, usual end, demanded end.
_PROVERBS = (
    ("A bird in the hand is worth two in the", "bush", "garden"),
    ("Actions speak louder than", "words", "thunder"),
    ("All that glitters is not", "gold", "silver"),
    ("An apple a day keeps the doctor", "away", "busy"),
    ("Better late than", "never", "early"),
    ("Blood is thicker than", "water", "honey"),
    ("Curiosity killed the", "cat", "fox"),
    ("Do not bite the hand that feeds", "you", "horses"),
    ("Do not judge a book by its", "cover", "author"),
    ("Do not put all your eggs in one", "basket", "kitchen"),
    ("Every cloud has a silver", "lining", "spoon"),
    ("Great minds think", "alike", "slowly"),
    ("Home is where the heart", "is", "sings"),
    ("Honesty is the best", "policy", "medicine"),
    ("If it ain't broke, don't fix", "it", "engines"),
    ("Laughter is the best", "medicine", "teacher"),
    ("Look before you", "leap", "answer"),
    ("Money does not grow on", "trees", "islands"),
    ("No news is good", "news", "luck"),
    ("Practice makes", "perfect", "noise"),
    ("Rome was not built in a", "day", "palace"),
    ("The early bird catches the", "worm", "train"),
    ("The grass is always greener on the other", "side", "island"),
    ("The pen is mightier than the", "sword", "hammer"),
    ("There is no place like", "home", "Paris"),
    ("Time flies when you are having", "fun", "dinner"),
    ("Two wrongs do not make a", "right", "lawyer"),
    ("When in Rome, do as the Romans", "do", "please"),
    ("Where there is smoke, there is", "fire", "bacon"),
    ("You cannot teach an old dog new", "tricks", "songs"),
)


class MemoTrap(Task):
    """``Write a quote that ends in the word "trial":`` and the beginning of a proverb; the word is highlighted.

    ``first``: the demanded word is likelier than the usual one, by first tokens. ``right``: the next words contain the
    demanded word and not the usual one.
    """

    name: ClassVar[str] = "memotrap"
    about: ClassVar[str] = "Proverbs that are to end in another word than the usual one (MemoTrap)."
    columns: ClassVar[tuple[str, ...]] = ("proverb.first", "proverb.right", "proverb.other", "proverb.margin")
    limit: ClassVar[int] = 100

    def items(self, source: Source) -> list[Item]:
        records = [_of(*p) for p in _PROVERBS][: source.limit] if source.data is None else source.records()
        return source.made(records, lambda record: [_item(record)])


def _item(record: Record) -> Item:
    given = {
        "gold_context_answer": record.gold_context_answer,
        "parametric_answer": record.remembered,
        "highlights": record.highlights,
    }
    field = next((name for name, value in given.items() if not value), None)
    if field is not None:
        raise RecordError(f"{field}: MemoTrap needs a gold and a remembered answer, and a highlight")
    before = record.highlights[0].start
    lead = record.passages[0][:before].rstrip(' "')
    return Item(
        id=record.id,
        unit=record.id,
        groups=("proverb",),
        record=record,
        gold=highlights_of(record),
        wrong=at(record, (0, 0, len(lead))) if lead else None,
        template="{context}",
        chat=False,
        opening=Opening(text=record.question, right=record.gold_context_answer, other=record.remembered),
        new_tokens=4,
        continues=True,
    )


def _of(beginning: str, usual: str, demanded: str) -> Record:
    text = _DEMAND.format(word=demanded)
    start = text.index(demanded, text.index('"'))
    return Record(
        id=beginning.lower(),
        dataset="seka-rag",
        question=beginning,
        passages=(text,),
        gold_context_answer=(demanded,),
        parametric_answer=usual,
        highlights=(Highlight(passage=0, start=start, end=start + len(demanded), text=demanded),),
        meta={},
    )
