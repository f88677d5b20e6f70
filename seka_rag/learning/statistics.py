"""Key statistics of contrastive triples: sums only, so parts learned anywhere can be added."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seka_rag.errors import LearningError, SpanError
from seka_rag.hf.hooks import recording
from seka_rag.hf.sites import find_key_sites
from seka_rag.hf.tokens import TokenizedPrompt, pad, pad_id, tokenize
from seka_rag.learning.triples import ContrastiveTriple
from seka_rag.text.prompt import Prompt


@dataclass
class KeyStatistics:
    """Sums over answer tokens, for L layers, H heads of size D.

    Attributes:
        relevant, irrelevant: ``[L, H, D, D]`` float64, ``sum H^T H+`` and ``sum H^T H-``.
        mean_relevant: ``[L, H, D]`` float64, the sum of relevant keys (it orients singular vectors).
        gap: ``[L, H]`` float64, the sum of ``||h+ - h-||_2``.
        tokens, triples, skipped: counts; a triple is skipped if its answer has other tokens in the three prompts.
    """

    relevant: Tensor
    irrelevant: Tensor
    mean_relevant: Tensor
    gap: Tensor
    tokens: int = 0
    triples: int = 0
    skipped: int = 0

    @classmethod
    def zeros(cls, layers: int, heads: int, head_dim: int) -> KeyStatistics:
        square = torch.zeros(layers, heads, head_dim, head_dim, dtype=torch.float64)
        flat = torch.zeros(layers, heads, dtype=torch.float64)
        return cls(square, square.clone(), torch.zeros(layers, heads, head_dim, dtype=torch.float64), flat)

    def __add__(self, other: KeyStatistics) -> KeyStatistics:
        """Statistics of both parts together."""
        if self.relevant.shape != other.relevant.shape:
            raise LearningError(f"statistics of different models: {self.relevant.shape} and {other.relevant.shape}")
        return KeyStatistics(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})

    def add(self, layer: int, neutral: Tensor, relevant: Tensor, irrelevant: Tensor) -> None:
        """Add keys ``[n, H, D]`` of one layer."""
        h, hp, hn = neutral.double(), relevant.double(), irrelevant.double()
        self.relevant[layer] += torch.einsum("nhd,nhe->hde", h, hp).cpu()
        self.irrelevant[layer] += torch.einsum("nhd,nhe->hde", h, hn).cpu()
        self.mean_relevant[layer] += hp.sum(0).cpu()
        self.gap[layer] += (hp - hn).norm(dim=-1).sum(0).cpu()


def triple_prompts(triple: ContrastiveTriple) -> tuple[Prompt, Prompt, Prompt]:
    """Neutral, relevant and irrelevant prompt, with the answer marked inside the context of each (paper, sec. 3.1)."""
    context = Prompt(triple.context, (triple.answer,))
    return (
        "Context: " + context,
        f"Question: {triple.question}\nContext: " + context,
        f"Question: {triple.irrelevant_question}\nContext: " + context,
    )


def collect_statistics(
    hf_model: nn.Module,
    tokenizer: Any,
    triples: Sequence[ContrastiveTriple],
    *,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> KeyStatistics:
    """Run every triple once through the model's backbone and sum up the keys of its answers.

    One padded batch holds the three prompts of ``batch_size`` triples; no logits and no hidden states are kept.

    Args:
        progress: called with the number of triples done since the last call.

    Raises:
        LearningError: no usable triple, or keys that are not finite.
    """
    sites = find_key_sites(hf_model)
    statistics = KeyStatistics.zeros(sites.layers, sites.heads, sites.head_dim)
    device = next(hf_model.parameters()).device
    was_training = hf_model.training
    hf_model.eval()
    try:
        with torch.inference_mode(), recording(sites) as keys:
            for chunk in _chunks(triples, batch_size):
                usable: list[TokenizedPrompt] = []
                for triple in chunk:
                    three = _tokenize(tokenizer, triple)
                    statistics.skipped += three is None
                    usable += three or []
                if usable:
                    batch = pad(
                        usable, pad_id(tokenizer), side="right"
                    )  # absolute positions stay those of each prompt alone
                    sites.decoder(
                        input_ids=batch.input_ids.to(device),
                        attention_mask=batch.attention_mask.to(device),
                        use_cache=False,
                    )
                    marked = (batch.weights > 0).view(-1, 3, batch.weights.shape[1])
                    for layer, k in keys.items():
                        k = k.unflatten(0, (-1, 3))  # [triples, 3, T, H, D]
                        h, hp, hn = (k[:, part][marked[:, part].to(k.device)] for part in range(3))
                        statistics.add(layer, h, hp, hn)
                    statistics.tokens += int(marked[:, 0].sum())
                    statistics.triples += len(usable) // 3
                if progress:
                    progress(len(chunk))
    finally:
        hf_model.train(was_training)
    if not statistics.tokens:
        raise LearningError(f"none of the {len(triples)} triples could be used ({statistics.skipped} skipped)")
    if not statistics.relevant.isfinite().all():
        raise LearningError("the model's keys are not finite; load it in float32 or bfloat16")
    return statistics


def _chunks(items: Sequence[ContrastiveTriple], size: int) -> Iterator[Sequence[ContrastiveTriple]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]


def _tokenize(tokenizer: Any, triple: ContrastiveTriple) -> list[TokenizedPrompt] | None:
    """The three prompts as tokens, or None if the answer's tokens differ between them."""
    try:
        three = [tokenize(tokenizer, prompt) for prompt in triple_prompts(triple)]
    except SpanError:
        return None
    answers = [[i for i, w in zip(t.ids, t.weights, strict=True) if w > 0] for t in three]
    return three if answers[0] == answers[1] == answers[2] else None
