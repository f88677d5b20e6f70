"""Constrained decoding with llguidance: at each step, only tokens that can still lead to a text of the grammar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seka_rag.errors import MissingExtraError, SettingError, TokenizationError
from seka_rag.hf.types import Tokenizer
from seka_rag.text.plain import JsonObject
from seka_rag.text.toolcalls import Tool, ToolFormat, tool_name

#: JSON as most models write it. Unlimited white space is where weak models never end, and half of a surrogate pair
#: (a \\u escape) is no text.
_STYLE = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "json_allowed_escapes": 'nrbtf\\"',
}


class Vocabulary:
    """A tokenizer's tokens as bytes, for grammars. Making one takes about a second; it can be used from several threads.

    Args:
        tokenizer: a fast tokenizer of transformers.
        size: how many tokens the model scores.
        ends: ids that end a text.

    Raises:
        MissingExtraError: llguidance is not installed.
        TokenizationError: a tokenizer whose tokens have no fixed bytes.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, ends: Sequence[int]) -> None:
        try:
            from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise MissingExtraError("llguidance", "structured") from error
        self.tokenizer, self.ends, self._matcher = tokenizer, frozenset(ends), LLMatcher
        size = max(size, len(tokenizer))
        kind = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("type")
        try:
            if kind == "WordPiece":
                self._tokens = LLTokenizer(TokenizerWrapper(_WordPieces(tokenizer)), n_vocab=size, eos_token=list(ends))
            else:
                self._tokens = from_tokenizer(tokenizer, n_vocab=size, eos_token=list(ends))
        except ValueError as error:
            raise TokenizationError(
                f"the tokens of this {kind} tokenizer have no fixed bytes, so its model cannot be held to a schema. "
                f"Byte-level BPE, SentencePiece with byte fallback and WordPiece can be used. (Reason: {str(error)[:200]})"
            ) from error

    def matcher(self, grammar: str) -> Any:
        """A fresh matcher.

        Raises:
            SettingError: the grammar, or a schema in it, is not understood.
        """
        matcher = self._matcher(self._tokens, grammar, log_level=0)
        if matcher.is_error():
            raise SettingError(f"the schema cannot be used for constrained decoding: {matcher.get_error()[:400]}")
        return matcher

    def literal(self, text: str) -> str:
        """A piece of text as a grammar writes it: between quotes, or as the token of its own that it is."""
        token = self.tokenizer.added_tokens_encoder.get(text)
        return json.dumps(text) if token is None or not self._tokens.is_special_token(token) else f"<[{token}]>"

    def decode(self, ids: Sequence[int]) -> str:
        """The bytes of the tokens as text: what the grammar saw, without the tokenizer's own clean-up."""
        return str(self._tokens.decode_str(list(ids)))


class _WordPieces:
    """Tokens of a WordPiece vocabulary, as llguidance asks for them.

    No white space is part of any, so the unknown token stands for a space: no other token is free to write one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        prefix = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("continuing_subword_prefix", "##")
        self.eos_token_id, self.bos_token_id = tokenizer.eos_token_id, tokenizer.bos_token_id
        assert tokenizer.unk_token_id is not None  # WordPiece has one
        self.unknown = tokenizer.unk_token_id
        self.special_token_ids = sorted({*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} - {self.unknown})
        names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        special = set(self.special_token_ids)
        self.tokens = [(n if i in special else n.removeprefix(prefix)).encode() for i, n in enumerate(names)]
        self.tokens[self.unknown] = b" "
        self._encode = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        text = text.decode("utf-8", "ignore") if isinstance(text, bytes) else text
        words = [self._encode(part, add_special_tokens=False)["input_ids"] for part in text.split(" ")]
        return [i for n, word in enumerate(words) for i in ([self.unknown] if n else []) + word]


class Constrained:
    """A logits processor that bars every token that the grammar does not allow next. A row that has ended is left alone."""

    def __init__(self, vocabulary: Vocabulary, grammar: str, prompt_length: int) -> None:
        self.vocabulary, self.grammar, self.prompt_length = vocabulary, grammar, prompt_length
        self._first = vocabulary.matcher(grammar)
        self._rows: list[tuple[Any, list[int]]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # [B, T], [B, V] -> [B, V]
        if not self._rows:
            self._rows = [(self._first.deep_copy(), []) for _ in range(len(input_ids))]
        barred = torch.zeros(scores.shape, dtype=torch.bool)
        for row, ids in enumerate(input_ids[:, self.prompt_length :].tolist()):
            matcher, seen = self._rows[row]
            same = next(
                (i for i, (a, b) in enumerate(zip(seen, ids, strict=False)) if a != b), min(len(seen), len(ids))
            )
            if same < len(seen):  # candidates that were looked at ahead and not taken
                matcher.rollback(len(seen) - same)
            taken = same + matcher.try_consume_tokens(ids[same:])
            self._rows[row] = (matcher, ids[:taken])
            if matcher.is_error():
                raise SettingError(f"constrained decoding stopped: {matcher.get_error()[:400]}")
            if taken < len(ids) or self.vocabulary.ends.intersection(ids):
                continue
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
            if not bits[: scores.shape[1]].any():
                raise SettingError("the model's tokens cannot spell what the schema demands next; use another schema")
            barred[row] = torch.from_numpy(bits[: scores.shape[1]] == 0)
        return scores.masked_fill(barred.to(scores.device), float("-inf"))


# --- grammars


def json_grammar(schema: object) -> str:
    """The grammar of one JSON text of a schema."""
    return f"%llguidance {{}}\nstart: {_schema(schema)}\n"


def call_grammar(
    form: ToolFormat, tools: Sequence[Tool], vocabulary: Vocabulary, *, free: bool = False, otherwise: object = None
) -> str:
    """The grammar of a call of one of these tools, or of JSON of the schema ``otherwise``.

    With ``free``: of any text whose calls are calls of these tools.
    """
    calls = []
    for tool in tools:
        pieces = form.pieces(tool_name(tool), parameters(tool))
        calls.append([_schema(p) if isinstance(p, dict) else vocabulary.literal(p) for p in pieces])
    lines = ["%llguidance {}", "TEXT: /(.|\\n)*/"]
    if not free:
        ways = [" ".join(pieces) for pieces in calls] + ([] if otherwise is None else [_schema(otherwise)])
        lines.append("start: " + " | ".join(ways))
    elif form.bare:
        lines += ["OTHER: /[^{](.|\\n)*/", "start: OTHER | " + " | ".join(" ".join(pieces) for pieces in calls)]
    else:
        marker = calls[0][0]
        head = f"head: TEXT {marker}" if marker.startswith("<[") else f"head[lazy]: TEXT {marker}"
        rests = " | ".join(" ".join(pieces[1:]) for pieces in calls)
        lines += [head, f"call: head ({rests})", "last: TEXT", "start: call* last"]
    return "\n".join(lines) + "\n"


def parameters(tool: Tool) -> JsonObject:
    """The schema of a tool's arguments; no schema takes none."""
    return {"type": "object", "properties": {}, **(tool["function"].get("parameters") or {})}


def closed(schema: object) -> object:
    """The schema without properties that it does not name, where it does not speak of them itself."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {
        key: value if key in ("enum", "const", "default", "examples", "required", "allOf") else closed(value)
        for key, value in schema.items()
    }
    named = isinstance(schema.get("properties"), dict) and not _OPEN.intersection(schema)
    return {**inner, "additionalProperties": False} if named else inner


_OPEN = frozenset(
    ("additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref")
)


def _schema(schema: object) -> str:
    strict = closed(schema)
    if isinstance(strict, dict):
        strict = {**strict, "x-guidance": _STYLE}
    return f"%json {json.dumps(strict)}"
