"""Where a model looked while it answered, plain and steered: seen during the answers themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from seka_rag.errors import SettingError
from seka_rag.hf.attention import attention_to, seeing_attention
from seka_rag.hf.chat import Message, render_chat
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.model.call import Steering
from seka_rag.model.generation import Generation
from seka_rag.model.steered import SteeredModel
from seka_rag.steering.key_editing import KeyEditing
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span, merge

Heads = Sequence[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Look:
    """One answer and the attention it was made with.

    Attributes:
        pieces: the text of each of its S tokens.
        first: ``[L, Q, T]`` weights of the prompt's last token, which decides on the first word.
        steps: ``[S, T]`` weights on the prompt of the position that decides on each token, mean over the heads of the reading.
    """

    generation: Generation
    pieces: tuple[str, ...]
    first: Tensor = field(repr=False)
    steps: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class AttentionReading:
    """A prompt, and where the plain and the steered model look in it.

    Attributes:
        prompt: the whole prompt, chat template included, with its highlights.
        passages: where each passage stands in it.
        question: its characters from the end of the last passage to the end of the user's message.
        edited: the query heads whose keys were edited, as ``(layer, head)``; empty for a method that edits no keys.
        heads: the query heads, as ``(layer, head)``, that ``steps`` and ``shares`` are means of: those whose attention to the
            highlighted text, at the prompt's last token, steering raises most.
    """

    prompt: Prompt
    tokens: TokenizedPrompt = field(repr=False)
    passages: tuple[Span, ...]
    question: tuple[int, int]
    edited: frozenset[tuple[int, int]] = field(repr=False)
    heads: tuple[tuple[int, int], ...]
    plain: Look = field(repr=False)
    steered: Look = field(repr=False)

    def shares(self, look: Look, step: int | None = None) -> tuple[list[float], float, float]:
        """Attention to each passage, to the question, and to all else (the template, its first token, the answer itself).

        Args:
            step: of the position that decides on this token of the answer; None for the mean over the answer.
        """
        row = look.steps.mean(0) if step is None else look.steps[step]
        *passages, question = attention_to(
            row, self.tokens, [*((s.start, s.end) for s in self.passages), self.question]
        )
        shares, asked = [float(p) for p in passages], float(question)
        return shares, asked, max(0.0, 1.0 - sum(shares) - asked)

    def to_highlights(self, look: Look) -> Tensor:
        """``[L, Q]`` attention of the prompt's last token to all that is highlighted."""
        return _to_highlights(look.first, self.tokens, self.prompt)


def read_attention(
    model: SteeredModel,
    messages: Sequence[Message],
    passages: Sequence[Span],
    *,
    steering: Steering = "auto",
    max_new_tokens: int = 48,
    heads: int = 10,
) -> AttentionReading:
    """Answer a conversation plain and steered, and keep where each token of the answers came from.

    The attention is seen while the answers are made, so it is that of these answers, fading included. Beside the two
    answers it costs one more plain pass over the prompt, which shows what the heads did before.

    Args:
        messages: as for ``SteeredModel.chat``; the last one holds the passages and the question.
        passages: where the passages stand in the last message, in order. ``Question.places`` of a ``Rag`` says it.
        heads: how many query heads the means are taken over.

    Raises:
        SettingError: the last message has no highlights, or steering is None.
        UnsupportedModelError: a kernel that does not let attention be seen (flash attention).
    """
    *before, last = messages
    content = last["content"]
    if steering is None or not isinstance(content, Prompt) or not content.spans:
        raise SettingError("steering is None or nothing is highlighted: plain and steered attention would be the same")
    chat = render_chat(model.tokenizer, messages)
    tokens = chat.tokenize(model.tokenizer)
    whole = Span(0, len(content))
    placed = render_chat(
        model.tokenizer, [*before, {**last, "content": Prompt(content.text, (*passages, whole))}]
    ).prompt
    *places, message = placed.spans[-len(passages) - 1 :]
    chosen: list[tuple[int, int]] = []
    look = partial(_look, model, tokens)
    at_first = _to_highlights(look(None, lambda weights: [(0, 0)], 1).first, tokens, chat.prompt)

    def choose(weights: Tensor) -> Heads:
        change = _to_highlights(weights, tokens, chat.prompt) - at_first
        most = change.flatten().topk(min(heads, change.numel())).indices.tolist()
        chosen[:] = sorted(divmod(i, change.shape[1]) for i in most)
        return chosen

    steered = look(steering, choose, max_new_tokens)
    return AttentionReading(
        chat.prompt,
        tokens,
        tuple(places),
        (max((p.end for p in places), default=message.start), message.end),
        _edited(model, steering),
        tuple(chosen),
        look(None, lambda weights: chosen, max_new_tokens),
        steered,
    )


def _to_highlights(weights: Tensor, tokens: TokenizedPrompt, prompt: Prompt) -> Tensor:
    return attention_to(weights[..., : len(tokens)], tokens, [(s.start, s.end) for s in merge(prompt.spans)]).sum(-1)


def _edited(model: SteeredModel, steering: Steering) -> frozenset[tuple[int, int]]:
    method = model.usual_steering if isinstance(steering, str) else steering
    if not isinstance(method, KeyEditing):
        return frozenset()
    sites = find_key_sites(model.hf_model)
    edits, groups = method.edits(model.bank, sites), range(sites.groups)
    return frozenset(
        (i, head * len(groups) + g) for i, edit in edits.items() for head in edit.heads.tolist() for g in groups
    )


def _look(
    model: SteeredModel,
    tokens: TokenizedPrompt,
    steering: Steering,
    choose: Callable[[Tensor], Heads],
    max_new_tokens: int,
) -> Look:
    """An answer and its attention; ``choose`` gets the first weights and says which heads count."""
    first: list[Tensor] = []
    steps: list[Tensor] = []
    index: list[Tensor] = []
    last: list[Tensor] = []

    def receive(weights: Tensor) -> None:
        if not first:
            first.append(weights)
            index[:] = [torch.tensor(column) for column in zip(*choose(weights), strict=True)]
        steps.append(weights[index[0], index[1], : len(tokens)].mean(0))

    def follow(input_ids: Tensor, scores: object, **_: object) -> Tensor:
        last[:] = [input_ids[0, len(tokens) :]]
        return torch.zeros(1, dtype=torch.bool, device=input_ids.device)

    with seeing_attention(model.hf_model, receive):
        generation = model.generate(
            tokens, steering=steering, max_new_tokens=max_new_tokens, stopping_criteria=[follow]
        )
    ids = last[0].tolist()[: generation.completion_tokens]
    texts = [model.tokenizer.decode(ids[:end], skip_special_tokens=True) for end in range(len(ids) + 1)]
    pieces = tuple(after[len(before) :] for before, after in pairwise(texts))
    return Look(generation, pieces, first[0], torch.stack(steps[: max(1, len(pieces))]))
