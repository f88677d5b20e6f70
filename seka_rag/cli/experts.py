"""Which experts a query chooses, for ``inspect``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from seka_rag.cli.terminal import console, quiet


def show_choices(model: str, experts: Any, queries: Sequence[str]) -> list[dict[str, float]]:
    """Print which experts each query chooses, as the reports of the suggested method name them, and return the weights."""
    from seka_rag.model.steered import SteeredModel
    from seka_rag.text.prompt import Prompt

    quiet()
    loaded = SteeredModel.from_pretrained(model, bank=experts)
    answers = loaded.generate([Prompt(query).highlight(query) for query in queries], max_new_tokens=1)
    weights = [row for answer in answers for row in answer.report.experts]
    table = Table("query", *experts.names, title="mean weight over the steered heads")
    for text, row in zip(queries, weights, strict=True):
        table.add_row(escape(text), *(f"{row[name]:.2f}" for name in experts.names))
    console.print(table)
    return weights
