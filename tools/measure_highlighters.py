"""How often a highlighter marks the text that answers, and what its marks are worth in answers of a model.

Records are those of the lost-in-the-middle benchmark (``docs/benchmarks/methods.md``), the embedding model a folder of
transformers with mean pooling, such as all-MiniLM-L6-v2:

    python -m tools.measure_highlighters --data ten_documents.jsonl --embedder FOLDER --answers 40
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from seka_rag import AllPassages, Passage, Prompt, Sentences, Similar, SteeredModel, TopK
from seka_rag.bench.item import highlights_of
from seka_rag.bench.rates import Rate
from seka_rag.bench.tasks.lost_in_the_middle import TEMPLATE
from seka_rag.questions.answers import contains_answer
from seka_rag.questions.records import Record, read_records
from seka_rag.text.spans import Span


def embedder(folder: str) -> Callable[[list[str]], list[list[float]]]:
    """Mean of the last hidden states, as sentence-transformers does it for MiniLM."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    @cache  # two highlighters ask for the same sentences
    @torch.inference_mode()
    def one(text: str) -> list[float]:
        batch = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        return model(**batch).last_hidden_state[0].mean(0).tolist()

    def embed(texts: list[str]) -> list[list[float]]:
        return [one(text) for text in texts]

    return embed


def prompt(record: Record, spans: Sequence[Sequence[Span]]) -> Prompt:
    """The benchmark's prompt with the spans of each passage."""
    passages = [Prompt(text, tuple(some)) for text, some in zip(record.passages, spans, strict=True)]
    return Prompt.format(TEMPLATE, {"context": Prompt.join(passages, "\n\n"), "question": record.question})


def _row(rate: Rate) -> dict[str, float]:
    low, high = rate.interval
    return {"n": rate.n, "value": round(rate.value, 3), "low": round(low, 3), "high": round(high, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--embedder", required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--answers", type=int, default=0, help="how many of these to answer, too")
    parser.add_argument("--limit", type=int, help="records, of a seeded order")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    embed = embedder(options.embedder)
    ways: dict[str, Any] = {
        "shared words": Sentences(),
        "similar sentence": Similar(embed, unit="sentence"),
        "three similar sentences": Similar(embed, unit="sentence", top=3),
        "similar passage": Similar(embed),
        "retriever's first": TopK(),
        "all": AllPassages(),
    }
    records = list(read_records(options.data))
    random.Random(0).shuffle(records)
    records = records[: options.limit]
    rows, chosen = [], []
    for record in tqdm(records, desc="marks"):
        passages = [Passage(text) for text in record.passages]
        marks = {name: way(record.question, passages) for name, way in ways.items()}
        chosen.append({**marks, "gold": highlights_of(record) or ((),) * len(passages)})
    for name in (*ways, "gold"):
        right, share = 0, 0.0
        for record, marks in zip(records, chosen, strict=True):
            texts = [p[s.start : s.end] for p, some in zip(record.passages, marks[name], strict=True) for s in some]
            right += contains_answer(" ".join(texts), record.gold_context_answer)
            share += sum(map(len, texts)) / sum(map(len, record.passages)) / len(records)
        rate = Rate(right, len(records))
        rows.append({"highlighter": name, "metric": "answer marked", **_row(rate), "share": round(share, 3)})
    if options.answers:
        model = SteeredModel.from_pretrained(options.model)
        right_of = dict.fromkeys(("plain", *ways, "gold"), 0)
        some = list(zip(records, chosen, strict=True))[: options.answers]
        for record, marks in tqdm(some, desc="answers"):
            for name in right_of:
                messages = [{"role": "user", "content": prompt(record, marks.get(name, marks["gold"]))}]
                steering = None if name == "plain" else "auto"
                answer = model.chat(messages, steering=steering, max_new_tokens=16)
                right_of[name] += contains_answer(answer.text, record.gold_context_answer)
        for name, right in right_of.items():
            rows.append({"highlighter": name, "metric": "answer right", **_row(Rate(right, len(some)))})
    for row in rows:
        print(json.dumps(row))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
