"""A benchmark over many prompts, with Ray Data: batches go to copies of the model, and one table is made of their outcomes.

Needs ``pip install 'seka-rag[ray]'``; see docs/how-to/ray.md. ``python examples/ray/benchmark.py`` starts two nodes on this
machine and prints the rates of two ways to steer the model that ships.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster import cluster, on_copies

from seka_rag import SteeredModel
from seka_rag.bench.item import Item
from seka_rag.bench.journal import Journal
from seka_rag.bench.measure import tokens_of
from seka_rag.bench.methods import Variant, choose
from seka_rag.bench.rows import Table
from seka_rag.bench.runner import PLAIN, Subject, batch_size, batches, run
from seka_rag.bench.tasks import TASKS
from seka_rag.bench.tasks.base import Source

PLACES = {
    "Alec": ("Lyon", "Dublin"),
    "Greta": ("Vienna", "Madrid"),
    "Hugo": ("Lisbon", "Kyiv"),
    "Felix": ("Oslo", "Cairo"),
}


def write_records(path: Path) -> None:
    """Questions whose passage says one city; the answer that is wrong is another one."""
    lines = []
    for name, (city, other) in PLACES.items():
        passage = f"{name} moved to {city} last year."
        mark = {"passage": 0, "start": 0, "end": len(passage), "text": passage}
        record: dict[str, Any] = {"id": name, "dataset": "places", "question": f"Where does {name} live?"}
        record |= {"passages": [passage], "highlights": [mark], "meta": {}}
        record |= {"gold_context_answer": [city], "parametric_answer": other}
        lines.append(json.dumps(record) + "\n")
    path.write_text("".join(lines))


class Measure:
    """A copy of the model that runs whole batches in all ways."""

    def __init__(self, task: str, model: str, variants: Sequence[Variant]) -> None:
        self.task, self.model, self.variants = task, SteeredModel.from_pretrained(model), variants

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        (items,) = batch["item"]
        with tempfile.TemporaryDirectory() as folder:
            journal = run(self.task, Subject(self.model, Path(folder)), items, self.variants)
        return {"outcomes": [journal.outcomes]}


def measure(
    task: str, model: SteeredModel, items: Sequence[Item], variants: Sequence[Variant], folder: Path, copies: int = 2
) -> Table:
    """The table of all outcomes; they are those of one process, since a batch is never split."""
    lengths = [len(tokens_of(model, item, PLAIN)) + item.new_tokens for item in items]
    parts = [[items[i] for i in part] for part in batches(lengths, *batch_size(model))]
    rows = on_copies(Measure, (task, model.name, list(variants)), parts, len(parts), copies).take_all()
    ids = [[item.id for item in part] for part in parts]
    journal = Journal(folder / f"{task}.jsonl", {"task": task, "model": model.name}, ids)
    found = {key: outcome for row in rows for key, outcome in row["outcomes"].items()}
    for variant in variants:
        for part in ids:
            journal.add(variant.key, part, [found[variant.key, i] for i in part])
    return Table(task, model.name, items, variants, journal)


def main() -> None:
    task, model = TASKS["conflict-rag"], SteeredModel.from_pretrained("seka-demo")
    variants = choose(("plain", "suggested"), model.bank, quick=True, highlights=task.highlights)
    with cluster(), tempfile.TemporaryDirectory() as folder:
        write_records(Path(folder) / "records.jsonl")
        items = task.items(Source(model, Path(folder), limit=4, data=Path(folder) / "records.jsonl"))
        table = measure(task.name, model, items, variants, Path(folder))
    for row in table.rows():
        if row.metric.endswith(".right"):
            print(f"{row.method:10} {row.metric:22} {row.value:.2f} of {row.n}")


if __name__ == "__main__":
    main()
