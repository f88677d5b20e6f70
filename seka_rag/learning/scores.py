"""What a model, steered or not, would say next: log-probabilities at the end of examples, with gradients if asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from seka_rag.hf.hooks import editing
from seka_rag.hf.marks import Marks
from seka_rag.hf.sites import KeySites
from seka_rag.hf.tokens import by_length, pad
from seka_rag.learning.examples import Example
from seka_rag.ops.edits import Edit

Edits = Mapping[int, Edit]


def next_scores(hf_model: nn.Module, sites: KeySites, examples: Sequence[Example], edits: Edits | None) -> Tensor:
    """Log-probabilities of the next token: ``[B, V]``, float32, in one pass over all examples.

    Gradients flow through the edits where the caller has them enabled.

    Args:
        edits: layer -> edit of the highlighted tokens; None for the plain model.
    """
    batch = pad([e.prompt for e in examples], 0)
    device = next(hf_model.parameters()).device
    inputs = {
        "input_ids": batch.input_ids.to(device),
        "attention_mask": batch.attention_mask.to(device),
        "position_ids": (batch.attention_mask.cumsum(-1) - 1).clamp_min(0).to(device),
        "use_cache": False,
        "logits_to_keep": 1,
    }
    if edits is None:
        logits = hf_model(**inputs).logits
    else:
        with editing(sites, Marks(batch.weights), edits):
            logits = hf_model(**inputs).logits
    last: Tensor = logits[:, -1]
    return last.float().log_softmax(-1)


def margins(scores: Tensor, examples: Sequence[Example]) -> Tensor:
    """``log p(evidence) - log p(remembered)`` of each example: ``[B, V]`` -> ``[B]``, in nats."""
    rows = torch.arange(len(examples), device=scores.device)
    evidence = torch.tensor([e.evidence for e in examples], device=scores.device)
    remembered = torch.tensor([e.remembered for e in examples], device=scores.device)
    return scores[rows, evidence] - scores[rows, remembered]


def divergence(plain: Tensor, steered: Tensor) -> Tensor:
    """``KL(plain, steered)`` of next-token distributions: log-probabilities ``[B, V]`` twice -> ``[B]``, in nats."""
    return (plain.exp() * (plain - steered)).sum(-1).clamp_min(0)


def batches(examples: Sequence[Example], size: int) -> Iterator[list[int]]:
    """Indices of examples of similar length, ``size`` at a time."""
    return by_length([e.prompt for e in examples], size)
