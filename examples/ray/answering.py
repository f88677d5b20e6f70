"""Answer many questions over passages, with Ray Data: each batch is highlighted and answered by a copy of the model.

Needs ``pip install 'seka-rag[ray]'``; see docs/how-to/ray.md. ``python examples/ray/answering.py`` starts two nodes on this
machine and prints the answers as lines of JSON.
"""

import json
from collections.abc import Sequence
from typing import Any

import ray
from cluster import cluster, on_copies

from seka_rag import BM25Retriever, Passage, Rag, SteeredModel

PLACES = {"Alec": "Lyon", "Greta": "Vienna", "Hugo": "Lisbon", "Felix": "Oslo"}
PASSAGES = [Passage(f"{name} moved to {city} last year.", source=f"note {name}") for name, city in PLACES.items()]


class Answer:
    """A copy of the model with the passages.

    Args:
        options: of ``SteeredModel.generate``.
    """

    def __init__(self, model: str, passages: Sequence[Passage], options: dict[str, Any]) -> None:
        self.rag = Rag(SteeredModel.from_pretrained(model), BM25Retriever(passages))
        self.options = options

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        model, asked = self.rag.model, [self.rag.prepare(str(question)) for question in batch["item"]]
        prompts = [model.tokenize_chat(question.messages) for question in asked]
        answers = model.generate(prompts, **self.options)
        reports = [answer.report for answer in answers]
        return {
            "question": [question.text for question in asked],
            "answer": [answer.text.strip() for answer in answers],
            "sources": [[passage.source for passage in question.passages] for question in asked],
            "tokens_edited": [report.tokens_edited for report in reports],
            "warnings": [[*r.warnings, *q.warnings] for r, q in zip(reports, asked, strict=True)],
        }


def answer_all(
    model: str,
    passages: Sequence[Passage],
    questions: Sequence[str],
    *,
    batch_size: int = 16,
    copies: int = 2,
    **options: Any,
) -> ray.data.Dataset:
    """A row for each question; computed when it is read, and written as it comes by ``write_json`` or ``write_parquet``."""
    parts = -(-len(questions) // batch_size)
    return on_copies(Answer, (model, list(passages), options), questions, parts, copies)


def main() -> None:
    questions = [f"Where does {name} live?" for name in PLACES]
    with cluster():
        for row in answer_all("seka-demo", PASSAGES, questions, batch_size=2, max_new_tokens=5).take_all():
            print(json.dumps({name: list(v) if name in ("sources", "warnings") else v for name, v in row.items()}))


if __name__ == "__main__":
    main()
