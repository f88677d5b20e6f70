"""Mean queries: what the last tokens of prompts look for, from a few dozen questions about their contexts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seka_rag.bank.queries import MeanQueries
from seka_rag.errors import SekaError
from seka_rag.hf.chat import render_chat
from seka_rag.hf.read import read_last_queries
from seka_rag.hf.sites import KeySites
from seka_rag.hf.tokens import TokenizedPrompt, pad_id, tokenize
from seka_rag.hf.types import Tokenizer
from seka_rag.learning.triples import ContrastiveTriple
from seka_rag.text.prompt import Prompt

PROMPTS = 48


@dataclass
class QuerySums:
    """Sums over the last tokens of prompts, which can be added.

    Attributes:
        sums: layer -> ``[Q, D]`` float64, the sum of the queries of each of Q query heads.
        power: layer -> ``[Q]`` float64, the sum of their squared lengths.
        prompts: how many.
    """

    sums: dict[int, Tensor] = field(default_factory=dict)
    power: dict[int, Tensor] = field(default_factory=dict)
    prompts: int = 0

    def __add__(self, other: QuerySums) -> QuerySums:
        if not self.prompts or not other.prompts:
            return self if self.prompts else other
        sums = {layer: total + other.sums[layer] for layer, total in self.sums.items()}
        power = {layer: total + other.power[layer] for layer, total in self.power.items()}
        return QuerySums(sums, power, self.prompts + other.prompts)

    def mean(self) -> MeanQueries | None:
        """The means; None if there was no prompt, or no query is known in this model."""
        if not self.sums:
            return None
        mean = {layer: total / self.prompts for layer, total in self.sums.items()}
        return MeanQueries(mean, {layer: total / self.prompts for layer, total in self.power.items()})


def collect_queries(sites: KeySites, tokenizer: Tokenizer, triples: Sequence[ContrastiveTriple]) -> QuerySums:
    """The queries of the last tokens of prompts that ask the question of each triple about its context.

    Every other prompt is a conversation, if the tokenizer has a chat template: answers begin after either.
    """
    if not sites.query_modules or not triples:
        return QuerySums()
    device = next(sites.decoder.parameters()).device
    prompts = sorted((question_prompt(tokenizer, t, i % 2 == 1) for i, t in enumerate(triples)), key=len)
    found = QuerySums()
    for begin in range(0, len(prompts), 8):
        rows = [torch.tensor(p.ids) for p in prompts[begin : begin + 8]]
        ids = pad_sequence(rows, batch_first=True, padding_value=pad_id(tokenizer)).to(device)
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        queries = {layer: q.double().cpu() for layer, q in read_last_queries(sites, ids, last).items()}
        found += QuerySums(
            {layer: q.sum(0) for layer, q in queries.items()},
            {layer: q.square().sum(-1).sum(0) for layer, q in queries.items()},
            len(rows),
        )
    return found


def question_prompt(tokenizer: Tokenizer, triple: ContrastiveTriple, chat: bool) -> TokenizedPrompt:
    """The context and its question, up to where the answer begins; as a conversation if asked for and possible."""
    if chat and getattr(tokenizer, "chat_template", None):
        content = f"Context: {triple.context}\n\nQuestion: {triple.question}"
        with suppress(SekaError):  # a template that refuses a lone question
            return render_chat(tokenizer, [{"role": "user", "content": content}]).tokenize(tokenizer)
    return tokenize(tokenizer, Prompt(f"Context: {triple.context}\nQuestion: {triple.question}\nAnswer:"))
