"""The one crossing from characters to tokens.

A token is highlighted if its characters overlap a span; special tokens never are. Text that a document or a user
supplied can never become a control token, whatever it spells.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from seka_rag.errors import SpanError, TokenizationError
from seka_rag.hf.control import ControlTokens
from seka_rag.hf.types import Tokenizer
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span, merge, overlapping


@dataclass(frozen=True)
class TokenizedPrompt:
    """One prompt as tokens: ids, highlight weight of each, the characters that each covers; warnings for the report."""

    ids: list[int]
    weights: list[float]
    offsets: list[tuple[int, int]]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts: ``input_ids``, ``attention_mask`` and highlight ``weights``, each ``[B, T]``."""

    input_ids: Tensor
    attention_mask: Tensor
    weights: Tensor


def tokenize(
    tokenizer: Tokenizer,
    prompt: Prompt,
    *,
    trusted: Sequence[tuple[int, int]] | None = None,
    add_special_tokens: bool = True,
) -> TokenizedPrompt:
    """Tokenize a prompt and carry its spans to tokens.

    Args:
        tokenizer: a fast tokenizer of transformers (offsets are needed).
        prompt: text and spans.
        trusted: the character ranges, such as those of a chat template, in which control tokens may stand.
            None: nowhere, a prompt's text is all content.
        add_special_tokens: let the tokenizer add its own (BOS); False where a chat template already wrote them.

    Raises:
        TokenizationError: a tokenizer without offsets, or one with a control token of a single character in the text.
        SpanError: a span that covers no token.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TokenizationError(
            f"{type(tokenizer).__name__} gives no character offsets, so highlights cannot be mapped to tokens; use a fast "
            "tokenizer (AutoTokenizer with use_fast=True)"
        )
    tokens = _encode(tokenizer, prompt.text, tuple(trusted or ()), add_special_tokens)
    spans = [span for span in prompt.spans if span.weight > 0]
    if not spans:
        return TokenizedPrompt(tokens.ids, [0.0] * len(tokens.ids), tokens.offsets)
    ranges = {(s, e) for (s, e), control in zip(tokens.offsets, tokens.control, strict=True) if s < e and not control}
    _check_covered(prompt.text, spans, ranges)
    segments = merge(spans)
    by_range = {r: max((s.weight for s in overlapping(segments, *r)), default=0.0) for r in ranges}
    weights = [
        0.0 if control else by_range.get(place, 0.0)
        for place, control in zip(tokens.offsets, tokens.control, strict=True)
    ]
    return TokenizedPrompt(tokens.ids, weights, tokens.offsets)


def _check_covered(text: str, spans: Sequence[Span], ranges: Iterable[tuple[int, int]]) -> None:
    """Every span, before they are merged, since the rest of one beside a stronger one may be a space without a token."""
    covered = bytearray(len(text))
    for start, end in ranges:
        covered[start:end] = b"\x01" * (end - start)
    before = list(itertools.accumulate(covered, initial=0))
    for span in spans:
        if before[span.start] == before[span.end]:
            shown = text[span.start : span.end]
            raise SpanError(f"span [{span.start}, {span.end}) {shown[:40]!r} covers no token of this tokenizer")


def pad(prompts: Sequence[TokenizedPrompt], pad_id: int, *, side: Literal["left", "right"] = "left") -> Batch:
    """Prompts as one batch: padded on the left to generate, or on the right, which leaves every position as it was."""
    length = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), length), pad_id, dtype=torch.long)
    attention, weights = torch.zeros_like(ids), torch.zeros(len(prompts), length)
    for row, p in enumerate(prompts):
        if len(p):
            place = slice(length - len(p), length) if side == "left" else slice(len(p))
            ids[row, place] = torch.tensor(p.ids)
            attention[row, place] = 1
            weights[row, place] = torch.tensor(p.weights)
    return Batch(ids, attention, weights)


def pad_id(tokenizer: Tokenizer) -> int:
    """The id to pad with: the tokenizer's own, else end of sequence, else 0 (padding is masked anyway)."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def end_ids(hf_model: nn.Module, tokenizer: Tokenizer, given: object = None) -> set[int]:
    """The tokens that end an answer: those given, else the model's own, else the tokenizer's; one, several or a tensor."""
    own = getattr(getattr(hf_model, "generation_config", None), "eos_token_id", None)
    ids = next((ids for ids in (given, own, tokenizer.eos_token_id) if ids is not None), [])
    return set(torch.as_tensor(ids, dtype=torch.long).flatten().tolist())


def end_texts(tokenizer: Tokenizer, chat: bool = True) -> list[str]:
    """The texts that end an answer: outside a chat, that of a line, after which a model goes on with something else."""
    return [] if chat and tokenizer.chat_template else ["\n"]


def by_length(prompts: Sequence[Sized], size: int) -> Iterator[list[int]]:
    """Indices of prompts of like length, at most ``size`` at a time, the shortest first: so little of a batch is padding.

    They are as few batches as can be, whose sizes differ by one at most: 33 prompts are 17 and 16, not 32 and 1.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    n, count = len(order), math.ceil(len(order) / size)
    for i in range(count):
        yield order[math.ceil(n * i / count) : math.ceil(n * (i + 1) / count)]


def spelled_control(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[str, str] | None:
    """The first of some texts that spells a control token, and that token as it stands there; None if none does."""
    control = ControlTokens.of(tokenizer)
    for text in texts:
        _, spelled = _encoder(tokenizer, text, (), control)(0, len(text), False)
        if spelled:
            return text, text[slice(*spelled[0])]
    return None


@dataclass
class _Tokens:
    """Ids and offsets; of each whether it is control, so never highlighted, and whether the tokenizer added it at an end."""

    ids: list[int] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)
    control: list[bool] = field(default_factory=list)
    added: list[bool] = field(default_factory=list)

    def append(self, token: int, start: int, end: int, *, control: bool = False, added: bool = False) -> None:
        self.ids.append(token)
        self.offsets.append((start, end))
        self.control.append(control)
        self.added.append(added)

    def __iadd__(self, other: _Tokens) -> _Tokens:
        self.ids += other.ids
        self.offsets += other.offsets
        self.control += other.control
        self.added += other.added
        return self

    def ends(self) -> tuple[_Tokens, _Tokens]:
        """What the tokenizer itself added before the text and behind it."""
        first = next(i for i, added in enumerate(self.added) if not added)
        last = next(i for i in range(len(self.added), 0, -1) if not self.added[i - 1])
        return self[:first], self[last:]

    def __getitem__(self, part: slice) -> _Tokens:
        return _Tokens(self.ids[part], self.offsets[part], self.control[part], self.added[part])


def _encode(tokenizer: Tokenizer, text: str, trusted: Sequence[tuple[int, int]], add_special_tokens: bool) -> _Tokens:
    """The tokens of a text, where a control token spelled outside the trusted ranges is plain text.

    The text is cut inside each such spelling and the pieces are encoded, until none is left. That needs no setting of
    the tokenizer (which all threads share), also holds for vocabularies that contain the spelling as a word, and takes
    time linear in the text.
    """
    encode = _encoder(tokenizer, text, trusted, ControlTokens.of(tokenizer))
    tokens, spelled = encode(0, len(text), add_special_tokens)
    if not spelled:
        return tokens
    done, behind = tokens.ends()
    pieces = [(0, len(text))]
    while pieces:
        start, end = pieces.pop()
        some, spelled = encode(start, end, False)
        for begin, _ in spelled:
            if not start < begin + 1 < end:
                raise TokenizationError(
                    f"{text[begin : begin + 1]!r} alone is a control token of this tokenizer, so it cannot be plain text of a "
                    "prompt; remove it from the text"
                )
        if spelled:
            borders = [start, *(begin + 1 for begin, _ in spelled), end]
            pieces += list(itertools.pairwise(borders))[::-1]
        else:
            done += some
    done += behind
    return done


def _encoder(
    tokenizer: Tokenizer, text: str, trusted: Sequence[tuple[int, int]], control: ControlTokens
) -> Callable[[int, int, bool], tuple[_Tokens, list[tuple[int, int]]]]:
    """Encodes a piece of the text: its tokens, and the ranges outside the trusted ones that spell control tokens."""
    starts, ends = [a for a, _ in sorted(trusted)], [b for _, b in sorted(trusted)]
    ends = list(itertools.accumulate(ends, max))

    def is_trusted(start: int, end: int) -> bool:
        before = bisect_right(starts, start)
        return before > 0 and end <= ends[before - 1]

    def encode(start: int, end: int, special: bool) -> tuple[_Tokens, list[tuple[int, int]]]:
        encoding = tokenizer(text[start:end], add_special_tokens=special, return_offsets_mapping=True)
        tokens, spelled, done = _Tokens(), [], start
        sources = encoding.sequence_ids()
        for t, (s, e), source in zip(encoding["input_ids"], encoding["offset_mapping"], sources, strict=True):
            if source is None:
                tokens.append(t, s, e, control=True, added=True)
                continue
            # a space alone is reported as empty where offsets leave spaces out: it is what lies before it
            s, e = (s + start if e > s else min(done, e + start)), e + start
            done = max(done, e)
            is_control = t in control.ids
            if is_control and control.is_unknown(t, text[s:e]):
                if not control.keeps_unknown:
                    continue
                is_control = False
            if is_control and not is_trusted(*(place := _stripped(text, s, e))):
                spelled.append(place)
            tokens.append(t, s, e, control=is_control)
        return tokens, spelled

    return encode


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """Without the white space that some control tokens swallow."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip()))
