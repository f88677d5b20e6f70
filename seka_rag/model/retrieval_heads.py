"""A highlighter that marks what the model itself looks at when it reads the question: by its retrieval heads, unsteered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from seka_rag.errors import SettingError, SpanError
from seka_rag.hf.attention import seeing_attention, tokens_in
from seka_rag.hf.chat import render_chat
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.tokens import tokenize
from seka_rag.highlight.base import PassageSpans
from seka_rag.highlight.ranked import Unit, check_ranking, mark_best, units_of
from seka_rag.model.shared import shared_model
from seka_rag.model.steered import SteeredModel
from seka_rag.questions.kinds import questions
from seka_rag.text.passages import TEMPLATE, Passage
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span

#: A query head, as ``(layer, head)``.
Head = tuple[int, int]

_HEADS = 8
_QUESTIONS = 10  # of each of two kinds, to find heads with


@dataclass(frozen=True, eq=False)
class RetrievalHeads:
    """Marks the passages, or the sentences, that the question's tokens attend to most, on the model's retrieval heads.

    It needs no embedding model and no common words, and costs passes of the model that answers, without steering: each passage
    is read by itself with the question behind it, in all about one and a half times the tokens of the prompt. No passage
    changes the score of another one. But the best of all is marked, so a passage can draw the highlight to itself by being
    close to the question, or long, as with ``Similar``: where anybody can add documents, put a trust policy around it
    (``Trusted``). ``docs/how-to/highlight.md`` says how often it finds the text that answers.

    Args:
        model: a SteeredModel, or the name of a model, which is loaded when it is first used and shared with a chain's model of
            this name. Only with a name can it be pickled.
        top: how many passages or sentences to mark, over all passages, at least 1. Ties keep the order of passages.
        unit: what is compared and marked: whole passages, or sentences.
        heads: the query heads that count; by default those that ``find_retrieval_heads`` finds, on the first call.

    Raises:
        SpanError: an argument out of range, or a model behind a server, whose attention is not seen.
        UnsupportedModelError: on a call, a kernel that does not let attention be seen (flash attention).
    """

    model: SteeredModel | str
    top: int = 1
    unit: Unit = "passage"
    heads: Sequence[Head] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, SteeredModel | str):
            raise SpanError(f"model: give a SteeredModel or the name of a model, not {type(self.model).__name__}")
        check_ranking(self.top, self.unit)
        if self.heads is not None and not len(self.heads):
            raise SpanError("heads is empty: give some as (layer, head), or None to find them")
        if isinstance(self.model, SteeredModel) and self.heads is not None:
            _checked(self.model, self.heads)

    def __call__(self, question: str, passages: Sequence[Passage]) -> PassageSpans:
        units = [units_of(passage, self.unit) for passage in passages]
        if not any(units) or not question.strip():
            return [() for _ in passages]
        layers, heads = (list(numbers) for numbers in zip(*self._heads, strict=True))
        scores: list[float] = []
        for passage, spans in zip(passages, units, strict=True):
            if spans:
                looks = looks_of_question(self._engine, question, passage.text, spans)
                scores += looks[layers, heads].mean(0).tolist()
        return mark_best(units, scores, self.top)

    @cached_property
    def _engine(self) -> SteeredModel:
        return shared_model(self.model, "auto", {}) if isinstance(self.model, str) else self.model

    @cached_property
    def _heads(self) -> tuple[Head, ...]:
        return find_retrieval_heads(self._engine) if self.heads is None else _checked(self._engine, self.heads)

    def __deepcopy__(self, memo: Any) -> RetrievalHeads:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self.model, str):
            raise SettingError(
                f"RetrievalHeads of a loaded model is not stored: make it with the name {self.model.name!r}"
            )
        return RetrievalHeads, (self.model, self.top, self.unit, self.heads)


def find_retrieval_heads(model: SteeredModel, count: int = _HEADS) -> tuple[Head, ...]:
    """The query heads that show best which sentence of a passage answers a question, the best first.

    Twenty of the library's development questions, each over the one passage that answers it: a head's score is the share of
    the sentence that answers in all of the attention that the question's tokens pay to the passage. Costs a plain pass over
    about a hundred tokens for each.

    Args:
        count: how many heads, at most as many as the model has.

    Raises:
        SpanError: ``count`` below 1.
        UnsupportedModelError: a kernel that does not let attention be seen (flash attention).
    """
    if count < 1:
        raise SpanError(f"count={count}: ask for at least one head")
    shares: list[Tensor] = []
    for kind in ("novel", "conflict"):
        for record in questions(kind, "development", _QUESTIONS, passages=(3, 3)):
            evidence = record.meta["evidence"]
            answering = Span(evidence["start"], evidence["end"])
            text = record.passages[evidence["passage"]]
            looks = looks_of_question(model, record.question, text, [answering, Span(0, len(text))])
            shares.append(looks[..., 0] / looks[..., 1].clamp(min=1e-9))
    mean = torch.stack(shares).mean(0)  # [L, Q]
    best = mean.flatten().topk(min(count, mean.numel())).indices.tolist()
    return tuple((i // mean.shape[1], i % mean.shape[1]) for i in best)


def looks_of_question(model: SteeredModel, question: str, passage: str, spans: Sequence[Span]) -> Tensor:
    """How much the question's tokens attend to each of E spans of a passage that stands before it: ``[L, Q, E]``.

    One plain pass over the passage and the question, as ``Rag`` would ask it. The sum over the tokens of a span, the mean
    over those of the question. Of a passage beyond the model's context, the beginning is cut off and gets 0.
    """
    numbered = tuple(Span(s.start, s.end, 1.0, str(i)) for i, s in enumerate(spans))
    asked = Prompt(question).mark(0, len(question), source=str(len(spans)))
    prompt = Prompt.format(TEMPLATE, {"context": Prompt(passage, numbered), "question": asked})
    if model.can_chat:
        chat = render_chat(model.tokenizer, [{"role": "user", "content": prompt}])
        prompt, tokens = chat.prompt, chat.tokenize(model.tokenizer)
    else:
        tokens = tokenize(model.tokenizer, prompt)
    places = [(int(s.source or 0), s.start, s.end) for s in prompt.spans]
    inside = tokens_in(tokens, places, len(spans) + 1)  # [T, E + 1]
    if not inside[:, -1].any():  # a question of which the tokenizer keeps nothing
        inside[-1, -1] = 1.0
    rows = inside[:, -1].nonzero().flatten()
    cut = 0 if model.context_length is None else max(0, len(tokens) - model.context_length)
    last = len(tokens) - max(int(rows[0]), cut)  # positions from the question's first token on
    device = next(model.hf_model.parameters()).device
    of_question, of_spans = inside[-last:, -1].bool().to(device), inside[cut:, :-1].to(device)
    kept: list[Tensor] = []

    def reduce(weights: Tensor) -> Tensor:
        return (weights[:, of_question, : len(of_spans)] @ of_spans).mean(1)  # [Q, E]

    with torch.inference_mode(), seeing_attention(model.hf_model, kept.append, last=last, reduce=reduce):
        find_key_sites(model.hf_model).decoder(
            input_ids=torch.tensor([tokens.ids[cut:]], device=device), use_cache=False
        )
    return kept[0]


def _checked(model: SteeredModel, heads: Sequence[Head]) -> tuple[Head, ...]:
    """The heads, if the model has them.

    Raises:
        SpanError: it has not.
    """
    sites = find_key_sites(model.hf_model)
    layers, count = sites.layers, sites.heads * sites.groups
    for head in heads:
        if not (len(head) == 2 and head[0] in range(layers) and head[1] in range(count)):
            raise SpanError(
                f"heads: {head} of a model with {layers} layers of {count} query heads, counted from (0, 0)"
            )
    return tuple((int(layer), int(head)) for layer, head in heads)
