"""Which tokens mean something beyond their text. No text of a document, question or tool may become one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from seka_rag.hf.types import Tokenizer

#: A name in brackets, as marks of conversations, thoughts and tools are spelled: <think>, <|im_start|>, [INST].
_MARK = re.compile(r"[<\[{【].*\w.*[>\]}】]", re.DOTALL)
_MARKS_IN_TEXT = re.compile(r"<[^<>\s]{1,64}>|\[[^\[\]\s]{1,64}\]")
_NOWHERE = "\U0010fffd"  # the last private character: no vocabulary has it
_UNKNOWN = re.compile(r"unk|oov", re.IGNORECASE)
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a tokenizer.

    Attributes:
        ids: all of them.
        unknown, unknown_text: the id of what the vocabulary lacks, if that is one of them, and how it is spelled.
        keeps_unknown: whether text that the vocabulary lacks may have this id: it means that and nothing else. Otherwise
            such text has no token, as with a tokenizer without an unknown token.
    """

    ids: frozenset[int]
    unknown: int | None = None
    unknown_text: str = ""
    keeps_unknown: bool = False

    def is_unknown(self, token: int, text: str) -> bool:
        """Whether a token stands for this text because the vocabulary lacks it, and not because the text spells it."""
        return token == self.unknown and text.strip() != self.unknown_text

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ControlTokens:
        """Special tokens, other added ones that are spelled as marks, and the marks that the chat template writes."""
        written = "\0".join(_literals(tokenizer))
        ids = special_ids(tokenizer)
        for token, added in tokenizer.added_tokens_decoder.items():
            name = added.content.strip()
            if _MARK.fullmatch(name) or (name in written and re.search(r"[^\w\s]", name) and re.search(r"\w", name)):
                ids.add(token)
        for mark in set(_MARKS_IN_TEXT.findall(written)):  # also one that is a word of the vocabulary and nothing more
            token = tokenizer.convert_tokens_to_ids(mark)
            if token is not None and tokenizer.convert_ids_to_tokens(token) == mark:
                ids.add(token)
        ids = {i for i in ids if str(tokenizer.convert_ids_to_tokens(i)).strip()}  # any text may hold white space
        found = (t.id for t in tokenizer.backend_tokenizer.model.tokenize(_NOWHERE))
        unknown = next((i for i in found if i in ids), tokenizer.unk_token_id)
        if unknown not in ids:
            return cls(frozenset(ids))
        name = str(tokenizer.convert_ids_to_tokens(unknown)).strip()
        roles = (getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "sep", "cls", "mask"))
        keeps = bool(_UNKNOWN.search(name)) and unknown not in roles and name not in written
        return cls(frozenset(ids), unknown, name, keeps)


def special_ids(tokenizer: Tokenizer) -> set[int]:
    """Ids that the tokenizer itself calls special."""
    return {i for i, t in tokenizer.added_tokens_decoder.items() if t.special} | set(tokenizer.all_special_ids)


def _literals(tokenizer: Tokenizer) -> Iterator[str]:
    """What the chat template, or each of several, writes by itself."""
    templates = getattr(tokenizer, "chat_template", None) or ""
    for template in templates.values() if isinstance(templates, dict) else (templates,):
        yield _JINJA.sub("\0", template)
        for code in _JINJA.findall(template):
            yield from ("".join(quoted) for quoted in _QUOTED.findall(code))
