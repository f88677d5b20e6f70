"""Whether steering should hold back where it is not needed: a target share of attention, and a gate for the first token.

``python -m tools.measure_restraint`` generates answers to development questions, with the evidence highlighted (in
``irrelevant``, a sentence that does not bear on the question): plain, with key bias of fixed strength, and with the bias that
lifts the highlights' share of attention to a target. What came out: docs/decisions, 2026-11-28-methods-to-compare-with.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, quantiles
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer

from seka_rag.bank import ProjectionBank
from seka_rag.bench.item import Item, Opening
from seka_rag.bench.measure import first_scores, tokens_of
from seka_rag.bench.methods import Variant
from seka_rag.bench.tasks.asking import question_item
from seka_rag.bench.tasks.base import Source
from seka_rag.bench.tasks.conflict_rag import GROUPS
from seka_rag.demo.real import answers_to_prompts
from seka_rag.hf.attention import last_token_attention
from seka_rag.hf.tokens import TokenizedPrompt, by_length
from seka_rag.model.steered import SteeredModel
from seka_rag.questions.answers import repetition
from seka_rag.questions.kinds import Kind
from seka_rag.steering.base import SteeringMethod
from seka_rag.steering.key_bias import KeyBias

KINDS: tuple[Kind, ...] = ("conflict", "agreement", "novel", "irrelevant")
TARGETS, MOST = (0.2, 0.4), 4.0  # shares of attention, and the strongest bias that may be used to get there
_TOKENS, _BATCH = 24, 64
app = typer.Typer(add_completion=False)


def share(model: SteeredModel, prompt: TokenizedPrompt) -> float:
    """The highlights' share of the attention of the prompt's last token, mean over the heads that the bank steers."""
    assert isinstance(model.bank, ProjectionBank)
    steered = (model.bank.ranks > 0).nonzero().tolist()
    attention = last_token_attention(model.hf_model, prompt)  # [L, Q, T]
    groups = attention.shape[1] // model.bank.ranks.shape[1]
    marked = torch.tensor(prompt.weights) > 0
    rows = torch.cat([attention[layer, head * groups : (head + 1) * groups] for layer, head in steered])
    return float(rows[:, marked].sum(-1).mean())


def bias_to_reach(target: float, share: float) -> float:
    """The bias that multiplies a share of attention up to the target while shares are small; at most ``MOST``, at least 0.

    >>> round(bias_to_reach(0.2, 0.02), 3)
    2.303
    """
    return min(MOST, max(0.0, math.log(target / share)))


def plain_share_of_first(
    model: SteeredModel, items: Sequence[Item], prompts: Sequence[TokenizedPrompt], method: SteeringMethod
) -> list[float]:
    """How likely the plain model finds the first token of the steered answer, over its own likeliest: what a gate asks."""
    beginnings = [replace(item, opening=Opening(text="", right=(), other=())) for item in items]
    ratios = [0.0] * len(items)
    for some in by_length(prompts, _BATCH):
        plain, steered = (
            first_scores(model, [beginnings[i] for i in some], variant)
            for variant in (Variant("plain"), Variant("steered", steering=method, highlight="gold"))
        )
        first = steered.argmax(-1, keepdim=True)
        for i, ratio in zip(some, (plain.gather(-1, first)[:, 0] - plain.max(-1).values).exp().tolist(), strict=True):
            ratios[i] = ratio
    return ratios


@app.command()
def main(
    model: Annotated[
        str, typer.Option(help="A model whose bank has the mean queries that a key bias needs.")
    ] = "smollm2",
    n: Annotated[int, typer.Option(min=8, help="Questions of each kind.")] = 60,
    fixed: Annotated[float, typer.Option(help="A fixed bias to compare with.")] = 3.35,
) -> None:
    """Right answers of each kind and repetition; the natural shares of attention; how often a gate would be open."""
    loaded = SteeredModel.from_pretrained(model)
    usual = KeyBias(bias=2.0, fade="sentence")
    with TemporaryDirectory() as folder:
        source = Source(loaded, Path(folder), n, None, "development")
        items = [question_item(record, GROUPS[kind], None) for kind in KINDS for record in source.questions(kind)]
    prompts = [tokens_of(loaded, item, Variant("gold", highlight="gold")) for item in items]
    groups = [item.groups[0] for item in items]
    shares = [share(loaded, prompt) for prompt in prompts]
    for group in dict.fromkeys(groups):
        quarters = quantiles([s for s, of in zip(shares, groups, strict=True) if of == group])
        typer.echo(f"{group}: quartiles of the plain share of attention {[round(q, 4) for q in quarters]}")
    ways = {"plain": (prompts, None), "fixed 2": (prompts, usual)}
    ways[f"fixed {fixed:g}"] = (prompts, usual.with_strength(fixed))
    for target in TARGETS:
        reach = [bias_to_reach(target, s) / MOST for s in shares]
        weighted = [replace(p, weights=[w * r for w in p.weights]) for p, r in zip(prompts, reach, strict=True)]
        ways[f"target {target:g}"] = (weighted, usual.with_strength(MOST))
    for name, (some, method) in ways.items():
        texts = answers_to_prompts(loaded, some, method, _TOKENS)
        right = [item.record.is_right(text) for item, text in zip(items, texts, strict=True)]
        cells = {of: sum(r for r, g in zip(right, groups, strict=True) if g == of) for of in dict.fromkeys(groups)}
        typer.echo(f"{name}: {cells}, repeated {mean(map(repetition, texts)):.3f}")
    ratios = plain_share_of_first(loaded, items, prompts, usual)
    for gate in (0.03, 0.1, 0.3):
        typer.echo(f"a gate of {gate:g} is open for {sum(r >= gate for r in ratios)} of {len(ratios)}")


if __name__ == "__main__":
    app()
