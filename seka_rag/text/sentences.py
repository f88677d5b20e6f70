"""Where the sentences of a text begin and end: rules for prose, hard-wrapped lines, lists and headings."""

from __future__ import annotations

import re

from seka_rag.text.spans import Span

# By number, because they look alike: ” ’ « ‘ and the full-width ！ ？ ）
_CLOSERS = "\"'\u201d\u2019»)\\]"
# No look-ahead in here: on a page of dots it would make the search quadratic. What follows is checked afterwards.
_MARK = re.compile(rf"(?P<western>[.!?…]+)[{_CLOSERS}]*|[。\uff01\uff1f।؟]+[\u201d\u2019」』\uff09]*")
_NEXT = re.compile(r"\s+[\"'\u201c\u2018«(\[¿¡]*(?P<word>\w*)(?P<dot>\.?)")
_BEFORE = re.compile(r"[^\s(\[\"'\u201c\u2018«]*$")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")
_LIST_ITEM = re.compile(r"\n(?=[^\S\n]*(?:[-*+•>|]|#{1,6}|\d{1,3}[.)])\s)")
_HEADING = re.compile(r"^[^\S\n]*#{1,6}[^\S\n][^\n]*\n", re.MULTILINE)
_LINE_START = re.compile(r"(^|\n)[^\S\n]*$")  # searched in the few characters before a number
_DOTTED = re.compile(r"(?:\w\.)+\w")  # U.S, a.m

#: Never the end of a sentence.
_TITLES = frozenset("mr mrs ms dr prof st mt gen col sgt capt lt rev hon vs cf e.g i.e viz approx ca".split())
#: Not the end of a sentence if a number follows.
_NUMBERED = frozenset("no nos fig figs p pp vol ch sec art eq ref".split())
#: The end of a sentence only if a word follows that often begins one.
_MAYBE = frozenset(
    "inc ltd co corp bros jr sr etc al ed eds dept est jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
_STARTERS = frozenset(
    """a after all although an and as at before both but by during each for from he her his how however i if in it its
    later many most my no not on one or our she since so some that the their then there these they this those though
    to today under we what when where while who why with yet you""".split()
)


def sentences(text: str) -> tuple[Span, ...]:
    """The sentences of a text, in order, disjoint, without white space at either end.

    Between them lies white space only. A blank line, a list item and a heading line always end a sentence; a single
    line break does not. Takes time linear in the text.

    >>> [("Dr. Ada left. It rained!")[s.start : s.end] for s in sentences("Dr. Ada left. It rained!")]
    ['Dr. Ada left.', 'It rained!']
    """
    cuts = {len(text)}
    for pattern in (_PARAGRAPH, _LIST_ITEM, _HEADING):
        cuts.update(match.end() for match in pattern.finditer(text))
    cuts.update(match.end() for match in _MARK.finditer(text) if _ends_sentence(text, match))
    return _stripped(text, sorted(cuts))


def paragraphs(text: str) -> tuple[Span, ...]:
    """The parts of a text between blank lines, in order, without white space at either end."""
    return _stripped(text, [*(match.end() for match in _PARAGRAPH.finditer(text)), len(text)])


def _ends_sentence(text: str, mark: re.Match[str]) -> bool:
    if mark["western"] is None or mark.end() == len(text):
        return True
    after = _NEXT.match(text, mark.end())
    if after is None or after["word"][:1].islower():
        return False
    if mark["western"] != ".":
        return True
    before = _BEFORE.search(text[max(0, mark.start() - 20) : mark.start()])
    word = before.group() if before else ""
    lowered, following = word.lower(), after["word"]
    if lowered in _TITLES:
        return False
    if lowered in _NUMBERED and following[:1].isdigit():
        return False
    if word.isdigit() and _LINE_START.search(text[max(0, mark.start() - len(word) - 8) : mark.start() - len(word)]):
        return False  # the number of a list item
    initial = len(word) == 1 and word.isupper() and word != "I"
    if initial or lowered in _MAYBE or _DOTTED.fullmatch(word):
        # "J. A. Smith": a letter with a dot of its own is an initial, not the article
        return not following or (following.lower() in _STARTERS and not (len(following) == 1 and after["dot"]))
    return True


def _stripped(text: str, cuts: list[int]) -> tuple[Span, ...]:
    """The pieces that end at the cuts, without white space around them; blank ones are left out."""
    found, start = [], 0
    for end in cuts:
        piece = text[start:end]
        first = start + len(piece) - len(piece.lstrip())
        last = start + len(piece.rstrip())
        if first < last:
            found.append(Span(first, last))
        start = end
    return tuple(found)
