"""Which experts a query chooses, for ``inspect``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from seka_rag.cli.terminal import console, quiet


def show_choices(model: str, experts: Any, queries: Sequence[str]) -> list[dict[str, float]]:
    """Print which experts each query chooses, by an unsteered pass of the model, and return the weights."""
    from seka_rag.hf.tokens import pad, pad_id
    from seka_rag.model.steered import SteeredModel
    from seka_rag.steering.adaseka import AdaSeka, route
    from seka_rag.steering.report import mean_weights

    quiet()
    loaded = SteeredModel.from_pretrained(model, bank=experts)
    batch = pad([loaded.tokenize(query) for query in queries], pad_id(loaded.tokenizer))
    device = next(loaded.hf_model.parameters()).device
    ids, attention = batch.input_ids.to(device), batch.attention_mask.to(device)
    weights = mean_weights(experts.names, route(loaded.hf_model, experts, AdaSeka(), ids, attention))
    table = Table("query", *experts.names, title="mean weight over the steered heads")
    for text, row in zip(queries, weights, strict=True):
        table.add_row(escape(text), *(f"{row[name]:.2f}" for name in experts.names))
    console.print(table)
    return weights
