"""A steered model in lm-evaluation-harness: its tasks, its batches and its scores, with highlights found in its prompts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor

from seka_rag.errors import MissingExtraError, SettingError, TokenizationError
from seka_rag.hf.chat import render_chat
from seka_rag.hf.tokens import tokenize
from seka_rag.highlight.base import Highlighter, check_spans
from seka_rag.highlight.registry import as_highlighter
from seka_rag.model.steered import SteeredModel
from seka_rag.steering.base import SteeringMethod, steer
from seka_rag.text.passages import Passage
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span, clip, shift

try:
    from lm_eval.models.huggingface import HFLM
except ImportError as error:
    raise MissingExtraError("lm-eval", "lm-eval") from error

#: Where the question of a prompt stands, and where each passage does, in characters.
Parts = tuple[tuple[int, int], tuple[tuple[int, int], ...]]
_LABELLED = re.compile(r"(?:\w+:\s*)?(.*?)(?:\n\s*\w+:)?", re.S)
_PARAGRAPH = re.compile(r"\S(?:.|\n(?!\s*\n))*")


def by_paragraphs(text: str) -> Parts:
    """The last paragraph of a prompt is the question, the others are passages; blank lines part them.

    Labels around the question are none of it.

    >>> by_paragraphs("One.\\n\\nTwo.\\n\\nQuestion: Which?\\nAnswer:")
    ((22, 28), ((0, 4), (6, 10)))
    """
    parts = [(m.start(), m.start() + len(m[0].rstrip())) for m in _PARAGRAPH.finditer(text)]
    if not parts:
        return (0, 0), ()
    start, end = parts[-1]
    bare = _LABELLED.fullmatch(text[start:end])
    assert bare is not None
    return (start + bare.start(1), start + bare.end(1)), tuple(parts[:-1])


class SteeredLM(HFLM):  # type: ignore[misc]  # lm-eval is read without types
    """The harness' model for transformers, which steers every forward pass by what is highlighted in its prompts.

    Requests are tokenized, batched and scored by the harness; only weights for highlighted tokens are added. A prompt
    in which nothing is highlighted runs as it is. With ``fewshot``, examples are passages too: leave it at 0.

    Args:
        model: the model with its bank.
        steering: the method; "auto" for the one that the bank suggests, None runs the plain model.
        highlighter: a name or a highlighter; it gets the question and the passages of each prompt.
        parts: finds these in a prompt, or in the last user's message if the chat template is applied.
        options: of the harness' model, such as ``batch_size``, a number here.

    Attributes:
        tokens_edited: how many highlighted tokens were steered so far.

    Raises:
        SettingError: "auto" without a bank.
        SpanError: an unknown highlighter.
    """

    def __init__(
        self,
        model: SteeredModel,
        steering: SteeringMethod | Literal["auto"] | None = "auto",
        highlighter: str | Highlighter = "sentences",
        *,
        parts: Callable[[str], Parts] = by_paragraphs,
        **options: object,
    ) -> None:
        if steering == "auto":
            steering = model.usual_steering
            if steering is None:
                raise SettingError(
                    f"{model.name} has no bank that suggests a method: give steering=..., None to run it plain"
                )
        super().__init__(pretrained=model.hf_model, tokenizer=model.tokenizer, **options)
        self._steered, self._steering = model, steering
        self._highlighter, self._parts = as_highlighter(highlighter), parts
        self._in_chats: dict[str, tuple[Span, ...]] = {}
        self._by_row: dict[tuple[int, ...], list[float]] = {}
        self._batch: Tensor | None = None
        self.tokens_edited = 0

    def spans(self, text: str) -> tuple[Span, ...]:
        """What is highlighted in a prompt."""
        if text in self._in_chats:
            return self._in_chats[text]
        (start, end), places = self._parts(text)
        passages = [Passage(text[s:e]) for s, e in places]
        found = check_spans(passages, self._highlighter(text[start:end], passages))
        return tuple(span for (s, _), some in zip(places, found, strict=True) for span in shift(some, s))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The harness' own rendering; the highlights of the last user's message go where its text goes."""
        text: str = super().apply_chat_template(chat_history, add_generation_prompt)
        last = max((i for i, message in enumerate(chat_history) if message["role"] == "user"), default=None)
        if self._steering is None or last is None:
            return text
        content = chat_history[last]["content"]
        messages = [*chat_history]
        messages[last] = {**messages[last], "content": Prompt(content, self.spans(content))}  # type: ignore[dict-item]  # a Prompt where a str was, as we render it
        rendered = render_chat(
            self.tokenizer,
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **self.chat_template_args,
        ).prompt
        if rendered.text != text:
            raise TokenizationError("the chat template dropped a message, so highlights cannot be followed")
        self._in_chats[text] = rendered.spans
        return text

    def _weights(self, text: str, ids: Sequence[int]) -> list[float]:
        """The weight of each of the last tokens of a prompt; where choices are scored, white space at its end is of these.

        Raises:
            TokenizationError: the harness has other tokens.
        """
        spans = self.spans(text)
        for body, special in product(dict.fromkeys((text, text.rstrip())), (False, True)):
            prompt = Prompt(body, clip(spans, 0, len(body)))
            found = tokenize(self.tokenizer, prompt, trusted=[(0, len(body))], add_special_tokens=special)
            if found.ids[-len(ids) :] == list(ids):
                return found.weights[-len(ids) :]
        raise TokenizationError(
            f"the harness tokenizes a prompt otherwise, so highlights cannot be followed: {text[:80]!r}"
        )

    def _loglikelihood_tokens(self, requests: Any, *arguments: object, **options: object) -> Any:
        if self._steering is not None:
            for pair, context, continuation in requests:
                text = pair[0] if pair is not None else ""  # None: a window of a longer text
                row = (context + continuation)[-(self.max_length + 1) :][:-1]
                weights = self._weights(text, context) if text else [0.0] * len(context)
                weights = (weights + [0.0] * len(continuation))[-(self.max_length + 1) :][:-1]
                self._by_row.setdefault(tuple(row), weights)
        try:
            return super()._loglikelihood_tokens(requests, *arguments, **options)
        finally:
            self._by_row.clear()

    def _model_call(self, inps: Tensor, *arguments: object, **options: object) -> Tensor:
        """Logits of rows that the harness padded with 0 on the right."""
        if not self._by_row:
            return super()._model_call(inps, *arguments, **options)  # type: ignore[no-any-return]  # lm-eval is read without types
        lengths = sorted({len(row) for row in self._by_row}, reverse=True)
        weights, mask = torch.zeros(inps.shape), torch.zeros_like(inps)
        for i, row in enumerate(inps.tolist()):
            known = (self._by_row.get(tuple(row[:n])) for n in lengths if not any(row[n:]))
            found = next((w for w in known if w is not None), None)
            if found is None:
                raise TokenizationError("the harness made a batch of other requests, so highlights cannot be followed")
            weights[i, : len(found)], mask[i, : len(found)] = torch.tensor(found), 1
        with self._highlighting(weights, inps, mask):
            return super()._model_call(inps, *arguments, **options)  # type: ignore[no-any-return]  # lm-eval is read without types

    def tok_batch_encode(self, strings: list[str], *arguments: object, **options: object) -> tuple[Tensor, Tensor]:
        """The harness' own batch, padded on the left; its weights are kept for the generation that follows."""
        ids, mask = super().tok_batch_encode(strings, *arguments, **options)
        if self._steering is not None:
            weights = torch.zeros(ids.shape)
            for i, text in enumerate(strings):
                there = mask[i].bool()
                weights[i, there] = torch.tensor(self._weights(text, ids[i, there].tolist()))
            self._batch = weights
        return ids, mask

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Tensor:
        weights, self._batch = self._batch, None
        with self._highlighting(weights, context, options.get("attention_mask")):
            return super()._model_generate(context, max_length, stop, **options)  # type: ignore[no-any-return]  # lm-eval is read without types

    def _highlighting(self, weights: Tensor | None, ids: Tensor, mask: Tensor | None) -> AbstractContextManager[Any]:
        if self._steering is None or weights is None or not weights.any():
            return nullcontext()
        self.tokens_edited += int((weights > 0).sum())
        bank = self._steered.bank
        with torch.no_grad():
            prepared = self._steering.prepare(self.model, bank, ids, mask, self.tokenizer)
        return steer(self.model, bank, weights, self._steering, prepared=prepared)
