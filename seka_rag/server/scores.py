"""Log-probabilities of an answer's tokens in the forms of OpenAI."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from seka_rag.hf.output import TokenScore, TokenScores
from seka_rag.hf.types import Tokenizer

_LEAST = -9999.0  # what OpenAI writes for a token that cannot be


class Scores:
    """What was recorded, as it is asked for: all of an answer, or what is new since the last time.

    Args:
        recorded: the record of the generation.
        tokenizer: to write tokens as text.
        ends: end tokens, which are no part of an answer.
    """

    def __init__(self, recorded: TokenScores, tokenizer: Tokenizer, ends: AbstractSet[int]) -> None:
        self.recorded, self.tokenizer, self.ends = recorded, tokenizer, ends
        self._sent = 0
        self._characters = 0

    def written(self, row: int, *, chat: bool, length: int) -> dict[str, object]:
        """All tokens of one answer. A row that was computed once and answered several times has one record."""
        rows = self.recorded.rows or [[]]
        return self._form(rows[min(row, len(rows) - 1)][:length], 0, chat, 0)

    def next(self, *, chat: bool, length: int | None = None) -> dict[str, object] | None:
        """The tokens of a single answer since the last call, if there are any."""
        row = (self.recorded.rows or [[]])[0]
        end = next((i for i, score in enumerate(row) if score.id in self.ends), len(row))
        end = end if length is None else min(end, length)
        first, self._sent = self._sent, max(end, self._sent)
        if end <= first:
            return None
        form = self._form(row[:end], first, chat, self._characters)
        self._characters += sum(map(len, form["tokens"])) if not chat else 0
        return form

    def _form(self, scores: list[TokenScore], first: int, chat: bool, offset: int) -> dict[str, Any]:
        befores = [None, *(score.id for score in scores)]
        written = [(s, befores[i]) for i, s in enumerate(scores)][first:]
        if chat:
            content = [
                {
                    **self._entry(s.id, s.logprob, before),
                    "top_logprobs": [self._entry(token, value, before) for token, value in s.top],
                }
                for s, before in written
            ]
            return {"content": content, "refusal": None}
        texts, offsets = [self._text(s.id, before) for s, before in written], []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        tops = [{self._text(i, before): max(value, _LEAST) for i, value in s.top} for s, before in written]
        return {
            "tokens": texts,
            "token_logprobs": [max(s.logprob, _LEAST) for s, _ in written],
            "top_logprobs": tops if any(tops) else None,
            "text_offset": offsets,
        }

    def _entry(self, token: int, logprob: float, before: int | None) -> dict[str, object]:
        text = self._text(token, before)
        whole = "\ufffd" not in text  # else a part of a character, whose bytes the text does not show
        return {"token": text, "logprob": max(logprob, _LEAST), "bytes": list(text.encode()) if whole else None}

    def _text(self, token: int, before: int | None) -> str:
        """The token as it continues the one before it: some tokenizers put a space between words only then."""
        alone = self.tokenizer.decode([token])
        if before is None:
            return alone
        first, both = self.tokenizer.decode([before]), self.tokenizer.decode([before, token])
        return both[len(first) :] if both.startswith(first) and "\ufffd" not in both else alone
