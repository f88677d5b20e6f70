"""The one crossing from characters to tokens.

A token is highlighted if its characters overlap a span; special tokens never are. Text that a document or a user
supplied can never become a control token, whatever it spells.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from seka_rag.errors import SpanError, TokenizationError
from seka_rag.text.prompt import Prompt


@dataclass(frozen=True)
class TokenizedPrompt:
    """One prompt as tokens: ids, highlight weight of each, and the characters that each covers."""

    ids: list[int]
    weights: list[float]
    offsets: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts: ``input_ids``, ``attention_mask`` and highlight ``weights``, each ``[B, T]``."""

    input_ids: Tensor
    attention_mask: Tensor
    weights: Tensor


def tokenize(
    tokenizer: Any, prompt: Prompt, *, trusted: Sequence[tuple[int, int]] | None = None, add_special_tokens: bool = True
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
    control = control_ids(tokenizer)
    ids, offsets = _encode(tokenizer, prompt.text, control, tuple(trusted or ()), add_special_tokens)
    special = {i for i, t in enumerate(ids) if t in control}
    weights = [0.0] * len(ids)
    for span in prompt.spans:  # not merged: the rest of a span beside a stronger one may be a space without a token
        hit = [i for i, (s, e) in enumerate(offsets) if s < span.end and span.start < e > s and i not in special]
        if not hit and span.weight > 0:
            shown = prompt.text[span.start : span.end]
            raise SpanError(f"span [{span.start}, {span.end}) {shown[:40]!r} covers no token of this tokenizer")
        for i in hit:
            weights[i] = max(weights[i], span.weight)
    return TokenizedPrompt(ids, weights, offsets)


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


def pad_id(tokenizer: Any) -> int:
    """The id to pad with: the tokenizer's own, else end of sequence, else 0 (padding is masked anyway)."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def control_ids(tokenizer: Any) -> set[int]:
    """Ids with a meaning beyond text. The unknown token is none: any text may become it."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}


def control_tokens(tokenizer: Any) -> list[str]:
    """How the control tokens are spelled."""
    return [str(t) for t in tokenizer.convert_ids_to_tokens(sorted(control_ids(tokenizer)))]


def _encode(
    tokenizer: Any, text: str, control: set[int], trusted: tuple[tuple[int, int], ...], add_special_tokens: bool
) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and offsets, where a control token spelled outside the trusted ranges is plain text.

    The text is cut inside each such spelling and the pieces are encoded, until none is left. That needs no setting of
    the tokenizer (which all threads share), also holds for vocabularies that contain the spelling as a word, and takes
    time linear in the text.
    """

    def encode(start: int, end: int, special: bool) -> tuple[list[tuple[int, tuple[int, int]]], list[int]]:
        encoding = tokenizer(text[start:end], add_special_tokens=special, return_offsets_mapping=True)
        tokens: list[tuple[int, tuple[int, int]]] = []
        done = start
        for t, (s, e) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            if e == s and t in control:  # the tokenizer's own
                tokens.append((t, (s, e)))
                continue
            # a space alone is reported as empty where offsets leave spaces out: it is what lies before it
            tokens.append((t, (s + start if e > s else min(done, e + start), e + start)))
            done = max(done, e + start)
        spelled = [_stripped(text, *o) for t, o in tokens if t in control and o[1] > o[0]]
        return tokens, [s + 1 for s, e in spelled if not any(a <= s and e <= b for a, b in trusted)]

    tokens, cuts = encode(0, len(text), add_special_tokens)
    if cuts:
        added = [i for i, (t, (s, e)) in enumerate(tokens) if e == s and t in control]  # by the tokenizer, at the ends
        inside = [i for i in range(len(tokens)) if i not in set(added)]
        first, last = inside[0], inside[-1]
        pieces, between = [(0, len(text))], []
        while pieces:
            start, end = pieces.pop()
            some, cuts = encode(start, end, False)
            for cut in cuts:
                if not start < cut < end:
                    raise TokenizationError(
                        f"{text[cut - 1 : cut]!r} alone is a control token of this tokenizer, so it cannot be plain text of a "
                        "prompt; remove it from the text"
                    )
            if cuts:
                borders = [start, *cuts, end]
                pieces += list(itertools.pairwise(borders))[::-1]
            else:
                between += some
        tokens = [tokens[i] for i in added if i < first] + between + [tokens[i] for i in added if i > last]
    return [t for t, _ in tokens], [o for _, o in tokens]


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """Without the white space that some control tokens swallow."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip()))
