"""How often a highlighter marks the text that answers, and what its marks are worth in answers of a model.

Ten passages a question, one of which answers. The library's own questions, in the words of the passage and in others, and the
same as people chat; questions in German, French and Spanish over passages of these languages; and, from a file of the
lost-in-the-middle benchmark (``docs/benchmarks/methods.md``), questions of people, with the passages of the file (found by
BM25) and with those that an embedding model finds closest:

    python -m tools.measure_highlighters --data ten_documents.jsonl --embedder FOLDER --split held-out --n 60 --out marks.jsonl

The embedding model is a folder of transformers with mean pooling, such as all-MiniLM-L6-v2. Of the file, the first half is for
development and the second is held out.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import torch
from tqdm import tqdm

from seka_rag import Passage, Prompt, Sentences, Similar, SteeredModel
from seka_rag.bench.item import highlights_of
from seka_rag.bench.journal import Journal
from seka_rag.bench.rates import Rate
from seka_rag.bench.tasks.lost_in_the_middle import TEMPLATE
from seka_rag.highlight.base import PassageSpans
from seka_rag.highlight.ranked import Unit, mark_best, units_of
from seka_rag.model.retrieval_heads import find_retrieval_heads, looks_of_question
from seka_rag.questions.answers import contains_answer
from seka_rag.questions.facts import Split
from seka_rag.questions.kinds import questions
from seka_rag.questions.records import Record, read_records
from seka_rag.text.spans import Span
from tools.question_forms import as_chat, in_other_languages

_COUNT = 10  # passages of a question
_NUMBERED = re.compile(r"^Document \[\d+\]")


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


class Looks:
    """``RetrievalHeads`` of several settings, with one pass of the model for each question and passage."""

    def __init__(self, model: SteeredModel) -> None:
        self.model, self.heads = model, find_retrieval_heads(model)
        self.scores = cache(self._scores)

    def _scores(self, question: str, passage: Passage) -> tuple[list[float], list[float]]:
        """Of the passage, and of its sentences."""
        units = [units_of(passage, "passage"), units_of(passage, "sentence")]
        layers, heads = (list(numbers) for numbers in zip(*self.heads, strict=True))
        looks = looks_of_question(self.model, question, passage.text, [*units[0], *units[1]])[layers, heads].mean(0)
        return looks[: len(units[0])].tolist(), looks[len(units[0]) :].tolist()

    def way(self, unit: Unit, top: int) -> Callable[[str, Sequence[Passage]], PassageSpans]:
        def highlighter(question: str, passages: Sequence[Passage]) -> PassageSpans:
            scores = [self.scores(question, passage)[unit == "sentence"] for passage in passages]
            return mark_best([units_of(p, unit) for p in passages], list(chain(*scores)), top)

        return highlighter


def forms(data: Path | None, embed: Any, split: Split, n: int, wanted: Sequence[str]) -> dict[str, list[Record]]:
    """The questions of each form, at most ``n``."""
    both = [questions(kind, split, n, passages=(_COUNT, _COUNT)) for kind in ("novel", "conflict")]
    own = [record for pair in zip(*both, strict=True) for record in pair]
    made: dict[str, Callable[[], list[Record]]] = {
        "same words": lambda: [r for r in own if r.meta["wording"] == "same"][:n],
        "other words": lambda: [r for r in own if r.meta["wording"] == "paraphrase"][:n],
        "chat": lambda: [as_chat(r, split) for r in own[:n]],
        "other languages": lambda: in_other_languages(split, n, passages=_COUNT),
    }
    if data is not None:
        records = list(read_records(data))
        half = len(records) // 2
        some = (records[:half] if split == "development" else records[half:])[:n]
        pool = list(dict.fromkeys(_NUMBERED.sub("", p) for r in records for p in r.passages))
        made["people, BM25"] = lambda: some
        made["people, closest"] = lambda: [_among_closest(r, pool, embed) for r in some]
    return {name: made[name]() for name in wanted or made}


def _among_closest(record: Record, pool: Sequence[str], embed: Any) -> Record:
    """The passage that answers among those that are closest to the question and do not, at the place that it had."""
    at = record.highlights[0].passage
    gold = _NUMBERED.sub("", record.passages[at])
    (question,), texts = embed([record.question]), embed(list(pool))
    scores = torch.nn.functional.cosine_similarity(torch.tensor(question), torch.tensor(texts), dim=-1)
    order = (pool[i] for i in scores.argsort(descending=True).tolist())
    others = [t for t in order if t != gold and not contains_answer(t, record.gold_context_answer)][: _COUNT - 1]
    passages = [f"Document [{i + 1}]{text}" for i, text in enumerate([*others[:at], gold, *others[at:]])]
    shift = len(passages[at]) - len(record.passages[at])
    marks = [h.model_copy(update={"start": h.start + shift, "end": h.end + shift}) for h in record.highlights]
    return record.model_copy(update={"passages": tuple(passages), "highlights": tuple(marks)})


def prompt(record: Record, spans: Sequence[Sequence[Span]]) -> Prompt:
    """The benchmark's prompt with the spans of each passage."""
    passages = [Prompt(text, tuple(some)) for text, some in zip(record.passages, spans, strict=True)]
    return Prompt.format(TEMPLATE, {"context": Prompt.join(passages, "\n\n"), "question": record.question})


def measure(model: SteeredModel, record: Record, ways: dict[str, Any], answers: bool) -> dict[str, dict[str, Any]]:
    """For each way whether the marked text holds the answer, its share of all text, and whether the model answers rightly."""
    passages = [Passage(text) for text in record.passages]
    marks = {name: way(record.question, passages) for name, way in ways.items()}
    marks["gold"] = highlights_of(record) or [()] * len(passages)
    found: dict[str, dict[str, Any]] = {}
    for name, spans in marks.items():
        texts = [p[s.start : s.end] for p, some in zip(record.passages, spans, strict=True) for s in some]
        share = sum(map(len, texts)) / sum(map(len, record.passages))
        found[name] = {"marked": contains_answer(" ".join(texts), record.gold_context_answer), "share": share}
    if answers:
        found["plain"] = {}
        for name in found:
            messages = [{"role": "user", "content": prompt(record, marks.get(name, marks["gold"]))}]
            answer = model.chat(messages, steering=None if name == "plain" else "auto", max_new_tokens=16)
            found[name]["right"] = contains_answer(answer.text, record.gold_context_answer)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--embedder", required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--split", choices=get_args(Split), default="development")
    parser.add_argument("--n", type=int, default=20, help="questions of each form")
    parser.add_argument("--forms", help="names with semicolons; by default all")
    parser.add_argument("--answers", type=int, default=0, help="how many of each form to answer, too")
    parser.add_argument("--out", type=Path, help="one line for each question; what stands there is not measured again")
    options = parser.parse_args()
    embed, model = embedder(options.embedder), SteeredModel.from_pretrained(options.model)
    looks = Looks(model)
    ways: dict[str, Any] = {
        "Sentences()": Sentences(),
        "Similar, sentence": Similar(embed, unit="sentence"),
        "Similar, 3 sentences": Similar(embed, unit="sentence", top=3),
        "Similar, passage": Similar(embed),
        "RetrievalHeads, sentence": looks.way("sentence", 1),
        "RetrievalHeads, 3 sentences": looks.way("sentence", 3),
        "RetrievalHeads, passage": looks.way("passage", 1),
    }
    wanted = options.forms.split(";") if options.forms else ()
    chosen = forms(options.data, embed, options.split, options.n, wanted)
    with tempfile.TemporaryDirectory() as folder:
        run = {name: str(getattr(options, name)) for name in ("model", "split", "answers")}
        names = dict.fromkeys(record.id for record in chain(*chosen.values()))
        journal = Journal(options.out or Path(folder) / "marks.jsonl", run, [[name] for name in names])
        for form, records in chosen.items():
            for i, record in enumerate(tqdm(records, desc=form)):
                if not journal.has(form, [record.id]):
                    found = measure(model, record, ways, i < options.answers)
                    journal.add(form, [record.id], [{"of": found}])
    for form, records in chosen.items():
        rows = [journal.outcomes[form, record.id]["of"] for record in records]
        print(f"\n{form}, n = {len(rows)}")
        for way in (*ways, "gold", "plain"):
            here = [row[way] for row in rows if way in row]
            told = [f"{sum(r['share'] for r in here) / len(here):.3f} of the text"] if here and way != "plain" else []
            for what in ("marked", "right"):
                if some := [r[what] for r in here if what in r]:
                    rate = Rate.of(some)
                    told.append(
                        f"{what} {rate.value:.2f} [{rate.interval[0]:.2f}, {rate.interval[1]:.2f}] n = {rate.n}"
                    )
            if told:
                print(f"{way:28} {'; '.join(told)}")


if __name__ == "__main__":
    main()
