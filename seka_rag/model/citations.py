"""Which passages an answer rests on: where the model looked in them while it wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seka_rag.hf.attention import seeing_attention, tokens_in
from seka_rag.hf.chat import Message, render_chat
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.tokens import TokenizedPrompt, tokenize
from seka_rag.model.steered import SteeredModel
from seka_rag.text.prompt import Prompt
from seka_rag.text.sentences import sentences
from seka_rag.text.spans import Span

#: A passage is cited for a sentence of the answer if it has at least this share of what the best one has.
_LEAST = 0.5


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A sentence of a passage that stands in a prompt.

    Attributes:
        passage: the number of the passage.
        start, end: its characters in the passage.
        message: the number of the message that it stands in; 0 for a single prompt.
        place: its characters in that message.
    """

    passage: int
    start: int
    end: int
    message: int
    place: Span


@dataclass(frozen=True, slots=True)
class Citation:
    """A sentence of the answer, and a passage that it rests on.

    Attributes:
        answer_start, answer_end: characters of the answer.
        passage: the number of the passage.
        start, end: characters of the sentence in it that was looked at most.
        share: of all that was looked at in passages, what was in this one.
        excerpt: the number of that sentence among the excerpts.
    """

    answer_start: int
    answer_end: int
    passage: int
    start: int
    end: int
    share: float
    excerpt: int


def excerpts_of(passage: int, text: str, message: int, move: Callable[[Span], Iterable[Span]]) -> tuple[Excerpt, ...]:
    """The sentences of a passage that stand in a message.

    Args:
        move: gives the places in the message of a span of the passage; none if that part was cut off.
    """
    return tuple(Excerpt(passage, s.start, s.end, message, place) for s in sentences(text) for place in move(s))


def cite(
    model: SteeredModel,
    prompt: Prompt | Sequence[Message],
    answer: str,
    excerpts: Sequence[Excerpt],
    *,
    template: Mapping[str, object] | None = None,
) -> tuple[Citation, ...]:
    """Which passages each sentence of an answer rests on, the best first.

    One plain pass over prompt and answer shows where the model looks when it decides on each token of the answer. What
    counts is attention to the very words that it goes on to write: heads that copy look there. Nothing else is read, so a
    passage can neither name another one nor be cited for what it does not say.

    The pass costs as much as reading the prompt once more, and beside it, in each layer, scores of the answer's tokens with
    all tokens.

    Args:
        prompt: what was answered: a prompt, or messages as for ``SteeredModel.chat``.
        answer: the answer's text; it may come from any model.
        excerpts: the sentences of the passages, and where they stand in the prompt.
        template: further arguments of the chat template, tools among them, as they were given to ``chat``.

    Returns:
        Nothing for an answer without letters or digits, or if there are no excerpts.

    Raises:
        SpanError: an excerpt beyond its message.
        UnsupportedModelError: a kernel that does not let attention be seen (flash attention).
    """
    return Citing.of(model, prompt, answer, excerpts, template=template).citations(model)


@dataclass(frozen=True, eq=False)
class Citing:
    """A prompt with excerpts and its answer, as tokens.

    Attributes:
        tokens: the prompt.
        reply: the answer.
        answer: its text.
        excerpts: the sentences of the passages.
        places: where they stand in the prompt, chat template included: ``(excerpt, start, end)``.
    """

    tokens: TokenizedPrompt
    reply: TokenizedPrompt
    answer: str
    excerpts: Sequence[Excerpt]
    places: Sequence[tuple[int, int, int]]

    @classmethod
    def of(
        cls,
        model: SteeredModel,
        prompt: Prompt | Sequence[Message],
        answer: str,
        excerpts: Sequence[Excerpt],
        *,
        template: Mapping[str, object] | None = None,
    ) -> Citing:
        """The tokens of a prompt and its answer; arguments as those of ``cite``.

        Raises:
            SpanError: an excerpt beyond its message.
        """
        tokens, places = _tokens(model, prompt, excerpts, template or {})
        reply = tokenize(model.tokenizer, Prompt(answer), add_special_tokens=False)
        return cls(tokens, reply, answer, excerpts, places)

    def citations(self, model: SteeredModel) -> tuple[Citation, ...]:
        """What ``cite`` returns: one pass of the model."""
        pieces = [s for s in sentences(self.answer) if any(map(str.isalnum, self.answer[s.start : s.end]))]
        if not pieces or not self.excerpts:
            return ()
        looks = _looks(model, self.tokens, self.reply, self.places, len(self.excerpts))  # [n, E]
        offsets = torch.tensor(self.reply.offsets)
        found: list[Citation] = []
        for piece in pieces:
            inside = (offsets[:, 1] > piece.start) & (offsets[:, 0] < piece.end)
            found += _cited(looks[inside].sum(0), piece, self.excerpts)
        return tuple(found)


def _tokens(
    model: SteeredModel, prompt: Prompt | Sequence[Message], excerpts: Sequence[Excerpt], template: Mapping[str, Any]
) -> tuple[TokenizedPrompt, list[tuple[int, int, int]]]:
    """The prompt as tokens, and where each excerpt stands in it: ``(excerpt, start, end)``."""
    messages = [{"content": prompt}] if isinstance(prompt, Prompt) else list(prompt)
    marks: list[list[Span]] = [[] for _ in messages]
    for number, excerpt in enumerate(excerpts):
        place = excerpt.place
        marks[excerpt.message].append(Span(place.start, place.end, 1.0, str(number)))
    marked = [
        {**m, "content": Prompt(str(m.get("content") or ""), tuple(s))} for m, s in zip(messages, marks, strict=True)
    ]
    if isinstance(prompt, Prompt):
        whole: Prompt = marked[0]["content"]
        tokens = tokenize(model.tokenizer, whole)
    else:
        chat = render_chat(model.tokenizer, marked, **template)
        whole, tokens = chat.prompt, chat.tokenize(model.tokenizer)
    return tokens, [(int(s.source or 0), s.start, s.end) for s in whole.spans]


def _looks(
    model: SteeredModel,
    prompt: TokenizedPrompt,
    reply: TokenizedPrompt,
    places: Sequence[tuple[int, int, int]],
    count: int,
) -> Tensor:
    """How much the positions that decide on each of the reply's n tokens look at each excerpt: ``[n, E]``."""
    limit = model.context_length
    ids = [*prompt.ids, *reply.ids[:-1]]
    cut = 0 if limit is None else max(0, len(ids) - limit)  # as a prompt that was cut at its beginning to fit
    sites, n = find_key_sites(model.hf_model), len(reply)
    device = next(model.hf_model.parameters()).device
    inside = tokens_in(prompt, places, count)[cut:].to(device)  # [T, E]
    tokens = torch.tensor(prompt.ids[cut:], device=device)
    same = torch.tensor(reply.ids, device=device)[:, None] == tokens  # [n, T]
    kept: list[Tensor] = []

    def reduce(weights: Tensor) -> Tensor:
        return (weights[..., : len(tokens)] * same) @ inside  # [Q, n, E]

    with torch.inference_mode(), seeing_attention(model.hf_model, kept.append, last=n, reduce=reduce):
        sites.decoder(input_ids=torch.tensor([ids[cut:]], device=device), use_cache=False)
    return kept[0].mean((0, 1))


def _cited(looks: Tensor, piece: Span, excerpts: Sequence[Excerpt]) -> list[Citation]:
    """The passages that one sentence of the answer rests on, from how much it looks at each excerpt ``[E]``."""
    own: dict[int, list[int]] = {}
    for number, excerpt in enumerate(excerpts):
        own.setdefault(excerpt.passage, []).append(number)
    sums = {passage: float(looks[numbers].sum()) for passage, numbers in own.items()}
    total, most = sum(sums.values()), max(sums.values())
    if not most > 0:
        return []
    found = []
    for passage in sorted(sums, key=lambda p: -sums[p]):
        if sums[passage] >= _LEAST * most:
            number = max(own[passage], key=lambda number: float(looks[number]))
            best, share = excerpts[number], sums[passage] / total
            found.append(Citation(piece.start, piece.end, passage, best.start, best.end, share, number))
    return found
