"""How often the first citation of an answer is the passage that holds what it says.

The library's own questions of two kinds in which the answer can only come from a passage: ``novel`` (memory knows nothing of
it) and ``conflict`` (memory says otherwise). Ten passages each, one of which answers; the model answers with its usual
steering. Counted are answers that contain the right one, by the sentence that does:

    python -m tools.measure_citations --split held-out --n 60

Beside it: the passage that the answer's tokens attend to most, over all heads; the one that shares most words with the
sentence of the answer; and the one that BM25 ranks first for the question.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from seka_rag import BM25Retriever, Passage, Rag, SteeredModel
from seka_rag.bench.journal import Journal
from seka_rag.bench.rates import Rate
from seka_rag.hf.attention import attention_to, seeing_attention
from seka_rag.hf.chat import render_chat
from seka_rag.hf.tokens import tokenize
from seka_rag.highlight.sentences import content_stems
from seka_rag.questions.answers import contains_answer
from seka_rag.questions.kinds import questions
from seka_rag.questions.records import Record
from seka_rag.rag import Answer
from seka_rag.text.prompt import Prompt
from seka_rag.text.sentences import sentences
from seka_rag.text.spans import Span


def plain_attention(model: SteeredModel, answer: Answer, piece: Span) -> int:
    """The passage that gets most attention while a sentence of the answer is decided on: mean over all heads."""
    marked = {"role": "user", "content": Prompt(answer.prompt.text, answer.question.places)}
    chat = render_chat(model.tokenizer, [marked])
    tokens = chat.tokenize(model.tokenizer)
    reply = tokenize(model.tokenizer, Prompt(answer.text), add_special_tokens=False)
    inside = [i for i, (start, end) in enumerate(reply.offsets) if end > piece.start and start < piece.end]
    kept: list[Tensor] = []

    def reduce(weights: Tensor) -> Tensor:
        return weights[:, inside, : len(tokens)].mean((0, 1))

    ids = torch.tensor([[*tokens.ids, *reply.ids[:-1]]])
    with torch.inference_mode(), seeing_attention(model.hf_model, kept.append, last=len(reply), reduce=reduce):
        model.hf_model(input_ids=ids, use_cache=False, logits_to_keep=1)
    shares = attention_to(kept[0].mean(0), tokens, [(s.start, s.end) for s in chat.prompt.spans])
    return int(shares.argmax())


def shared_words(text: str, passages: Sequence[str]) -> int:
    """The passage with most content words of a text; of several, the one that has fewest others."""
    asked = content_stems(text)
    found = [content_stems(p) for p in passages]
    return max(range(len(found)), key=lambda i: (len(asked & found[i]), -len(found[i])))


def first_retrieved(record: Record) -> int:
    """What BM25 finds first for the question."""
    found = BM25Retriever([Passage(p, source=str(i)) for i, p in enumerate(record.passages)])(record.question)
    return int(found[0].source or 0) if found else -1


def measure(model: SteeredModel, record: Record) -> dict[str, int] | None:
    """What each way cites first, and ``evidence``, the passage that holds the answer; None for an answer that is not right."""
    rag = Rag(model, lambda question: [Passage(text, source=str(i)) for i, text in enumerate(record.passages)])
    answer = rag.answer(record.question, max_new_tokens=16)
    right = [
        s for s in sentences(answer.text) if contains_answer(answer.text[s.start : s.end], record.gold_context_answer)
    ]
    if not right:
        return None
    piece, cited = right[0], rag.cite(answer)
    return {
        "evidence": record.meta["evidence"]["passage"],
        "citation": next((c.passage for c in cited if c.answer_start == piece.start), -1),
        "first citation of the answer": cited[0].passage if cited else -1,
        "plain attention": plain_attention(model, answer, piece),
        "shared words": shared_words(answer.text[piece.start : piece.end], record.passages),
        "retriever's first": first_retrieved(record),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--split", choices=("development", "held-out"), default="development")
    parser.add_argument("--n", type=int, default=20, help="questions of each kind")
    parser.add_argument("--out", type=Path, help="one line for each right answer; what stands there is not asked again")
    options = parser.parse_args()
    model = SteeredModel.from_pretrained(options.model, dtype=torch.float32)
    records = [
        r for kind in ("novel", "conflict") for r in questions(kind, options.split, options.n, passages=(10, 10))
    ]
    random.Random(0).shuffle(records)
    with tempfile.TemporaryDirectory() as folder:
        run = {name: str(getattr(options, name)) for name in ("model", "split", "n")}
        journal = Journal(options.out or Path(folder) / "cited.jsonl", run, [[record.id] for record in records])
        for record in records:
            if not journal.has(options.model, [record.id]):
                journal.add(options.model, [record.id], [{"cited": measure(model, record)}])
    outcomes = (journal.outcomes[options.model, record.id]["cited"] for record in records)
    found = [row for row in outcomes if row is not None]
    print(f"{len(found)} right answers of {len(records)}")
    for way in [name for name in found[0] if name != "evidence"]:
        rate = Rate(sum(row[way] == row["evidence"] for row in found), len(found))
        low, high = rate.interval
        print(f"{way:30} {rate.value:.3f} [{low:.3f}, {high:.3f}]  n = {rate.n}")


if __name__ == "__main__":
    main()
