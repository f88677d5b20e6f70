"""What learning costs: ``python -m seka_rag.bench.learning``, beside a builder that runs the whole model three times."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import typer
from torch import Tensor

from seka_rag.bench.meters import now
from seka_rag.bench.models import random_model
from seka_rag.errors import LearningError
from seka_rag.hf.loading import load_model
from seka_rag.hf.types import Tokenizer
from seka_rag.learning.learn import learn_bank
from seka_rag.learning.statistics import triple_prompts
from seka_rag.learning.tasks.lookup import template_triples
from seka_rag.learning.triples import ContrastiveTriple
from seka_rag.text.spans import Span

PASSAGES = 5


@torch.no_grad()
def three_passes(
    model: Any, tokenizer: Tokenizer, triples: Sequence[ContrastiveTriple], energy: float = 0.9
) -> dict[int, Tensor]:
    """Projections ``[H, D, D]`` of each layer, learned plainly: three passes of the whole Qwen3 a triple.

    So does the builder of the method's authors: one prompt at a time, to its end, with logits and all hidden states.
    """
    config, layers = model.config, model.model.layers
    kept: list[list[list[Tensor]]] = [[[] for _ in range(3)] for _ in layers]
    for triple in triples:
        for part, prompt in enumerate(triple_prompts(triple)):
            encoded = tokenizer(prompt.text, return_offsets_mapping=True)
            (span,) = prompt.spans
            answer = [i for i, (s, e) in enumerate(encoded["offset_mapping"]) if s < span.end and span.start < e]
            ids = torch.tensor([encoded["input_ids"]], device=model.device)
            hidden = model(ids, use_cache=False, output_hidden_states=True).hidden_states
            for layer, block in enumerate(layers):
                keys = block.self_attn.k_proj(block.input_layernorm(hidden[layer][0, answer]))
                kept[layer][part].append(block.self_attn.k_norm(keys.unflatten(-1, (-1, config.head_dim))).cpu())
    found = {}
    for layer, (neutral, relevant, _) in enumerate(kept):  # the third tells which heads to keep
        h, hp = torch.cat(neutral).double(), torch.cat(relevant).double()
        heads = []
        for head in range(h.shape[1]):
            u, s, _ = torch.linalg.svd(h[:, head].T @ hp[:, head] / len(h))
            rank = int((s.cumsum(0) / s.sum() < energy).sum()) + 1
            heads.append((u[:, :rank] @ u[:, :rank].T).float())
        found[layer] = torch.stack(heads)
    return found


def among_passages(triples: Sequence[ContrastiveTriple], at: int, passages: int = PASSAGES) -> list[ContrastiveTriple]:
    """Each context as passage ``at`` of several; the others are those of other triples."""
    return [
        _joined([triples[(i + j - at) % len(triples)] for j in range(passages)], [at])[0] for i in range(len(triples))
    ]


def sharing_passages(triples: Sequence[ContrastiveTriple], passages: int = PASSAGES) -> list[ContrastiveTriple]:
    """Contexts of several passages, each with one answer in every passage."""
    starts = range(0, len(triples) - passages + 1, passages)
    return [t for i in starts for t in _joined(triples[i : i + passages], range(passages))]


def _joined(triples: Sequence[ContrastiveTriple], asked: Sequence[int]) -> list[ContrastiveTriple]:
    context = "\n\n".join(t.context for t in triples)
    starts = [sum(len(t.context) + 2 for t in triples[:i]) for i in range(len(triples))]
    return [
        ContrastiveTriple(
            context,
            Span(triples[i].answer.start + starts[i], triples[i].answer.end + starts[i]),
            triples[i].question,
            triples[i].irrelevant_question,
        )
        for i in asked
    ]


@dataclass(frozen=True)
class Result:
    """Seconds for 100 triples, medians over the rounds, and the largest difference of two projections."""

    ours: float
    plain: float
    ratio: float
    difference: float


def compare(model: Any, tokenizer: Tokenizer, triples: Sequence[ContrastiveTriple], rounds: int) -> Result:
    """Both builders in turn over the same triples.

    Raises:
        LearningError: they do not learn the same, in float32.
    """
    times: dict[str, list[float]] = {"ours": [], "plain": []}

    def timed(name: str, build: Callable[[], Any]) -> Any:
        began = now(model.device)
        built = build()
        times[name].append(100 * (now(model.device) - began) / len(triples))
        return built

    difference = 0.0
    for i in range(rounds):
        runs = [
            ("ours", lambda: learn_bank(model, triples, tokenizer=tokenizer)),
            ("plain", lambda: three_passes(model, tokenizer, triples)),
        ]
        built = {name: timed(name, run) for name, run in (runs if i % 2 else runs[::-1])}
        for layer in built["ours"].positive:
            apart = (built["ours"].projection(layer) - built["plain"][layer]).abs().max()
            difference = max(difference, float(apart))
    if difference > 1e-3 and model.dtype == torch.float32:
        raise LearningError(f"the two builders learned projections that differ by {difference:.2g}")
    ours, plain = (statistics.median(times[name]) for name in ("ours", "plain"))
    ratio = statistics.median(p / o for o, p in zip(times["ours"], times["plain"], strict=True))
    return Result(ours, plain, ratio, difference)


def rows(hidden: int, layers: int, rounds: int, triples: int, device: str, dtype: torch.dtype) -> Iterator[str]:
    """The table, line by line: where the answer stands, how long contexts are, how large the vocabulary is."""
    tokenizer = load_model("seka-demo").tokenizer
    short = template_triples(triples)
    few = short[: max(PASSAGES, triples // 2)]
    places = [(f"{PASSAGES} passages, answer in the {n}", among_passages(few, at)) for n, at in _places()]
    cases = [("template triples", short), *places, (f"{PASSAGES} passages, an answer in each", sharing_passages(few))]
    yield "| triples | tokens, to the answer's end | vocabulary | three passes | seka-rag | ratio | projections differ by |"
    yield "|---|---|---|---|---|---|---|"
    for vocabulary in (32_000, 151_936):
        model = random_model(hidden, layers, vocabulary=vocabulary, device=device, dtype=dtype)
        for name, data in cases:
            if vocabulary > 32_000 and name not in (cases[0][0], places[1][0]):
                continue
            found = compare(model, tokenizer, data, rounds)
            whole, cut = _tokens(tokenizer, data)
            yield (
                f"| {name} | {whole:.0f}, {cut:.0f} | {vocabulary:,} | {found.plain:.1f} s | {found.ours:.1f} s | "
                f"{found.ratio:.2f} | {found.difference:.0e} |"
            )


def _places() -> list[tuple[str, int]]:
    return [("first", 0), ("middle one", PASSAGES // 2), ("last", PASSAGES - 1)]


def _tokens(tokenizer: Tokenizer, triples: Sequence[ContrastiveTriple]) -> tuple[float, float]:
    """Mean tokens of a prompt, whole and up to the end of the answer."""
    prompts = [p for t in triples for p in triple_prompts(t)]
    texts = [p.text for p in prompts], [p.text[: p.spans[0].end] for p in prompts]
    whole, cut = (statistics.mean(len(ids) for ids in tokenizer(t)["input_ids"]) for t in texts)
    return whole, cut


def main(
    hidden: int = 640,
    layers: int = 12,
    rounds: int = 3,
    triples: int = 10,
    device: str = "cpu",
    dtype: str = "float32",
) -> None:
    """Print seconds for 100 triples, of both builders."""
    for line in rows(hidden, layers, rounds, triples, device, getattr(torch, dtype)):
        print(line, flush=True)


if __name__ == "__main__":
    typer.run(main)
