"""A beginning that several prompts share, computed once: its tokens, its highlights and its cache."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from seka_rag.bank import Bank
from seka_rag.errors import SteeringError, TokenizationError
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.hf.types import Cache, transformer
from seka_rag.steering.base import SteeringMethod, SteeringReport, steer
from seka_rag.text.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Prefix:
    """Made by ``SteeredModel.prefill``. It never changes: every use copies the cache.

    Attributes:
        tokens: ids and highlight weights.
        prompt: its text with highlights; None if it was made from tokens.
        method: how it was steered; None if nothing is highlighted.
        report: what was steered.
    """

    tokens: TokenizedPrompt
    prompt: Prompt | None
    method: SteeringMethod | None
    report: SteeringReport
    _model: nn.Module = field(repr=False)
    _cache: Cache = field(repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    @torch.no_grad()
    def compute(
        cls,
        model: nn.Module,
        bank: Bank | None,
        method: SteeringMethod | None,
        tokens: TokenizedPrompt,
        prompt: Prompt | None,
    ) -> Prefix:
        """One pass of the decoder over the tokens, steered if there is a method.

        Raises:
            SteeringError: what the method does is not kept in a cache, or depends on what follows the prefix.
        """
        decoder = transformer(model).get_decoder()
        ids = torch.tensor([tokens.ids], device=next(model.parameters()).device)
        if method is None:
            return cls(
                tokens, prompt, None, SteeringReport(), model, decoder(input_ids=ids, use_cache=True).past_key_values
            )
        method.check_prefix(model, bank)
        with steer(model, bank, torch.tensor([tokens.weights]), method) as report:
            cache = decoder(input_ids=ids, use_cache=True).past_key_values
        return cls(tokens, prompt, method, report, model, cache)

    def before(self, prompt: Prompt | str | TokenizedPrompt) -> Prompt | TokenizedPrompt:
        """The whole prompt; tokens are the whole prompt already.

        Raises:
            TokenizationError: text after a prefix that was made from tokens.
        """
        if isinstance(prompt, TokenizedPrompt):
            return prompt
        if self.prompt is None:
            raise TokenizationError("this prefix was made from tokens: pass the tokens of the whole prompt")
        return self.prompt + prompt

    def check(
        self, model: nn.Module, bank: Bank | None, method: SteeringMethod | None, prompts: Sequence[TokenizedPrompt]
    ) -> None:
        """Raise unless each of the prompts continues this prefix, on the same model and with the same steering.

        Raises:
            SteeringError: another model, bank or method, or other highlights within the prefix.
            TokenizationError: other tokens, or none after the prefix.
        """
        if model is not self._model:
            raise SteeringError("this prefix was computed by another model: call prefill of the model that generates")
        n = len(self)
        for tokens in prompts:
            if tokens.ids[:n] != self.tokens.ids:
                same = next((i for i, (a, b) in enumerate(zip(tokens.ids, self.tokens.ids, strict=False)) if a != b), 0)
                raise TokenizationError(
                    f"the whole prompt does not begin with the {n} tokens of the prefix: they differ from token {same}. Text "
                    "at the boundary may have merged into one token; end the prefix where a word or line ends"
                )
            if tokens.weights[:n] != self.tokens.weights:
                raise SteeringError("a highlight of the continuation reaches into the prefix: call prefill with it")
            if len(tokens) == n:
                raise TokenizationError("nothing follows the prefix: the prompt has no tokens of its own")
        if self.method is not None and (method != self.method or bank is None or bank.digest != self.report.bank):
            raise SteeringError(
                f"this prefix was steered with {self.method!r} and bank {self.report.bank}; asked for are {method!r} and bank "
                f"{getattr(bank, 'digest', None)}. Call prefill again, with steering=..."
            )

    def cache(self, rows: int) -> Cache:
        """A copy of the cache for so many rows, to be used once."""
        copied = copy.deepcopy(self._cache)
        if rows > 1:
            copied.reorder_cache(torch.zeros(rows, dtype=torch.long, device=next(self._model.parameters()).device))
        return copied

    def joined(self, report: SteeringReport, rows: int) -> SteeringReport:
        """The report of a batch, with what was highlighted in the prefix of each row."""
        if self.method is None:
            return report
        first = report if report.bank else replace(self.report, tokens_marked=0, tokens_edited=0)
        return replace(
            first,
            tokens_marked=first.tokens_marked + rows * self.report.tokens_marked,
            tokens_edited=first.tokens_edited + rows * self.report.tokens_edited,
        )
