"""The one crossing from characters to tokens.

A token is highlighted if its characters overlap a span; special tokens never are. Text that a document or a user
supplied can never become a control token, whatever it spells.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seka_rag.errors import SpanError, TokenizationError
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import merge


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
        TokenizationError: a tokenizer without offsets.
        SpanError: a span that covers no token.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TokenizationError(
            f"{type(tokenizer).__name__} gives no character offsets, so highlights cannot be mapped to tokens; use a fast "
            "tokenizer (AutoTokenizer with use_fast=True)"
        )
    encoding = tokenizer(prompt.text, add_special_tokens=add_special_tokens, return_offsets_mapping=True)
    ids, offsets = list(encoding["input_ids"]), [tuple(o) for o in encoding["offset_mapping"]]
    control = _control_ids(tokenizer)
    real = [(i, _stripped(prompt.text, *offsets[i])) for i, t in enumerate(ids) if t in control and offsets[i][1] > 0]
    allowed = [i for i, (s, e) in real if any(a <= s and e <= b for a, b in trusted or ())]
    if len(allowed) < len(real):  # content spells a control token: take it apart
        ids, offsets = _split(tokenizer, prompt.text, ids, offsets, allowed, add_special_tokens)
        allowed = [i for i, t in enumerate(ids) if t in control]
    weights = [0.0] * len(ids)
    special = set(allowed)
    for span in merge(prompt.spans):
        hit = [i for i, (s, e) in enumerate(offsets) if s < span.end and e > span.start and i not in special]
        if not hit and span.weight > 0:
            shown = prompt.text[span.start : span.end]
            raise SpanError(f"span [{span.start}, {span.end}) {shown[:40]!r} covers no token of this tokenizer")
        for i in hit:
            weights[i] = max(weights[i], span.weight)
    return TokenizedPrompt(ids, weights, offsets)


def pad(prompts: Sequence[TokenizedPrompt], pad_id: int) -> Batch:
    """Left-pad prompts into one batch."""
    length = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), length), pad_id, dtype=torch.long)
    attention, weights = torch.zeros_like(ids), torch.zeros(len(prompts), length)
    for row, p in enumerate(prompts):
        if len(p):
            ids[row, -len(p) :] = torch.tensor(p.ids)
            attention[row, -len(p) :] = 1
            weights[row, -len(p) :] = torch.tensor(p.weights)
    return Batch(ids, attention, weights)


def pad_id(tokenizer: Any) -> int:
    """The id to pad with: the tokenizer's own, else end of sequence, else 0 (padding is masked anyway)."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _control_ids(tokenizer: Any) -> set[int]:
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """Without the white space that some control tokens swallow."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip()))


def _split(
    tokenizer: Any,
    text: str,
    ids: list[int],
    offsets: list[tuple[int, int]],
    allowed: list[int],
    add_special_tokens: bool,
) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokenize what lies between the allowed control tokens as plain text."""
    plain = copy.deepcopy(tokenizer.backend_tokenizer)  # the setting below is global to a tokenizer, hence a copy
    plain.encode_special_tokens = True
    plain.no_padding()
    plain.no_truncation()
    new_ids: list[int] = []
    new_offsets: list[tuple[int, int]] = []
    # what the tokenizer adds by itself has empty offsets: keep it where it stands, at the ends
    leading = [i for i, o in zip(ids, offsets, strict=True) if o == (0, 0)] if add_special_tokens else []
    front = leading[:1] if leading and ids[0] == leading[0] and offsets[0] == (0, 0) else []
    new_ids += front
    new_offsets += [(0, 0)] * len(front)
    position = 0
    for i in [*allowed, None]:
        start, end = (len(text), len(text)) if i is None else offsets[i]
        piece = plain.encode(text[position:start], add_special_tokens=False)
        new_ids += piece.ids
        new_offsets += [(s + position, e + position) for s, e in piece.offsets]
        if i is not None:
            new_ids.append(ids[i])
            new_offsets.append(offsets[i])
        position = end
    return new_ids, new_offsets
