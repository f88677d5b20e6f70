"""Which heads matter: the gradient of the evidence margin with respect to the strength of each head, at no strength."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from seka_rag.errors import LearningError
from seka_rag.hf.find import find_key_sites
from seka_rag.learning.examples import Example
from seka_rag.learning.scores import Edits, batches, margins, next_scores


def head_gradient(
    hf_model: nn.Module,
    examples: Sequence[Example],
    edits: Edits,
    *,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Mean over examples of ``d margin / d s`` at ``s = 0``, where the edit of each head is scaled by its own ``s``.

    One forward and one backward pass. Its largest entries name the heads in which steering moves the answer most for the
    least strength; choosing heads by it matters more than which subspace is edited (our own measurement, see the docs
    on calibration).

    Args:
        examples: conflicts, whose evidence is highlighted.
        edits: layer -> edit at the strength that counts as 1, for every head that may be steered.

    Returns:
        ``[L, H]`` float32, in nats per unit of strength; 0 for heads without an edit.

    Raises:
        LearningError: no examples.
    """
    if not examples:
        raise LearningError("no conflict examples: the gradient needs facts that the model knows")
    sites = find_key_sites(hf_model)
    total = torch.zeros(sites.layers, sites.heads)
    for chosen in batches(examples, batch_size):
        some = [examples[i] for i in chosen]
        with torch.inference_mode(False), torch.enable_grad():
            strengths = {layer: torch.zeros(len(edit.heads), requires_grad=True) for layer, edit in edits.items()}
            scaled = {layer: edit.scaled(strengths[layer]) for layer, edit in edits.items()}
            margin = margins(next_scores(hf_model, sites, some, scaled), some).sum()
            found = torch.autograd.grad(margin, list(strengths.values()))
        for layer, gradient in zip(edits, found, strict=True):
            total[layer, edits[layer].heads] += gradient.float().cpu()
        if progress:
            progress(len(some))
    return total / len(examples)
