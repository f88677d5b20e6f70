"""Learn a bank from triples in parts, with Ray Data: each part goes to a copy of the model, and only sums come back.

Needs ``pip install 'seka-rag[ray]'``; see docs/how-to/ray.md. ``python examples/ray/learning.py`` starts two nodes on this
machine and compares the bank with one that is learned at once.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster import cluster, on_copies

from seka_rag import ContrastiveTriple, ProjectionBank, SteeredModel, learn_bank, template_triples
from seka_rag.hf.identity import identify
from seka_rag.learning.learn import bank_from_statistics
from seka_rag.learning.settings import LearningSettings
from seka_rag.learning.statistics import collect_statistics
from seka_rag.learning.statistics_files import merge_statistics, save_statistics


class Collect:
    """A copy of the model that turns a part of the triples into a file of statistics."""

    def __init__(self, model: str) -> None:
        self.model = SteeredModel.from_pretrained(model, bank=None)

    def __call__(self, part: dict[str, Any]) -> dict[str, list[bytes]]:
        hf_model = self.model.hf_model
        statistics = collect_statistics(hf_model, self.model.tokenizer, list(part["item"]))
        with tempfile.TemporaryDirectory() as folder:
            path = save_statistics(Path(folder) / "part.safetensors", identify(hf_model), statistics)
            return {"statistics": [path.read_bytes()]}


def learn_in_parts(
    model: str, triples: Sequence[ContrastiveTriple], parts: int, copies: int = 2, **settings: Any
) -> ProjectionBank:
    """A bank of all triples. Settings are those of ``learn_bank``."""
    rows = on_copies(Collect, (model,), triples, parts, copies).take_all()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"part-{i}.safetensors" for i in range(len(rows))]
        for path, row in zip(paths, rows, strict=True):
            path.write_bytes(row["statistics"])
        identity, statistics = merge_statistics(paths)  # refuses parts of different models, and one that came twice
    return bank_from_statistics(identity, statistics, LearningSettings(**settings))


def main() -> None:
    model, triples = "seka-demo", template_triples(96)
    with cluster():
        bank = learn_in_parts(model, triples, parts=6, best=0.2)
    alone = learn_bank(SteeredModel.from_pretrained(model, bank=None), triples, best=0.2)
    off = max(float((bank.projection(i) - alone.projection(i)).abs().max()) for i in alone.layers)
    print(f"6 parts on 2 nodes: {bank}")
    print(f"At once:            {alone}")
    print(f"Largest difference of their projections: {off:.0e}")


if __name__ == "__main__":
    main()
