"""The content words of a text, without their endings."""

from __future__ import annotations

from seka_rag.text.words import STOPWORDS, words


def content_stems(text: str) -> frozenset[str]:
    """The stems of a text's content words. A text of stop words only has none."""
    return frozenset(stem(word) for word in words(text) if word not in STOPWORDS)


def stem(word: str) -> str:
    """A word without its commonest English endings, so that "lives", "lived" and "living" meet.

    The result is for comparison only and need not be a word. Words with digits or other scripts stay whole.
    """
    if len(word) < 4 or not word.isascii() or not word.isalpha():
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "xes", "ches", "shes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        root = word.removesuffix(ending)
        if root != word and len(root) >= 3 and any(c in "aeiouy" for c in root):
            doubled = root[-1] == root[-2] and root[-1] not in "lsz"
            word = root[:-1] if doubled else root
            break
    return word.removesuffix("e") if len(word) > 3 else word
