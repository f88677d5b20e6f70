"""What ``learn`` and ``inspect`` do with experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from seka_rag.cli.terminal import console, quiet


def expert_triples(names: str | None, given: Sequence[str], n: int, seed: int) -> dict[str, Any]:
    """Triples of the built-in tasks (``all``, or names with commas) and of files (``NAME=FILE``).

    Raises:
        LearningError: an unknown task, a name that is taken, or a file that cannot be read.
    """
    from seka_rag.errors import LearningError
    from seka_rag.learning.experts import task_triples
    from seka_rag.learning.triples import read_triples

    chosen = None if names == "all" else [name.strip() for name in (names or "").split(",") if name.strip()]
    triples: dict[str, Any] = dict(task_triples(chosen, n, seed))
    for item in given:
        name, equals, file = item.partition("=")
        if not equals or not name or not file:
            raise LearningError(f"--expert {item!r}: write NAME=FILE, a file of triples as --triples takes")
        if name in triples:
            raise LearningError(f"--expert {item!r}: there is an expert {name!r} already")
        triples[name] = read_triples(file)
    return triples


def show_choices(model: str, experts: Any, queries: Sequence[str]) -> list[dict[str, float]]:
    """Print which experts each query chooses, by an unsteered pass of the model, and return the weights."""
    from seka_rag.hf.tokens import pad, pad_id
    from seka_rag.model.steered import SteeredModel
    from seka_rag.steering.adaseka import AdaSeka, route
    from seka_rag.steering.base import mean_weights

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
