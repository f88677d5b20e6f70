"""What default highlights do to a passage that only states its lie, beside one that tells the truth: first tokens.

``python -m tools.measure_lies``: development questions of our own set, half an hour of a processor. The figures are in
docs/how-to/highlight.md.
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from tqdm import tqdm

from seka_rag import SteeredModel
from seka_rag.bench.measure import first_outcome, first_scores
from seka_rag.bench.methods import Variant
from seka_rag.bench.rates import Rate
from seka_rag.bench.tasks.poison import stated_lies
from seka_rag.questions.pairs import discordant, mcnemar

PLAIN = Variant("plain")


def main(
    n: Annotated[int, typer.Option(min=1, help="Questions.")] = 450,
    model: Annotated[str, typer.Option(help="Name or folder, with a bank.")] = "smollm2",
    batch: Annotated[int, typer.Option(min=1, help="Prompts that run together.")] = 4,
) -> None:
    steered = SteeredModel.from_pretrained(model, dtype=torch.float32)
    default = Variant("default", steering=steered.usual_steering, highlight="sentences")
    items = stated_lies("development", n)
    lies: dict[str, list[bool]] = {"plain": [], "default": []}
    for start in tqdm(range(0, n, batch)):
        some = items[start : start + batch]
        plain, other = first_scores(steered, some, PLAIN), first_scores(steered, some, default)
        for i, item in enumerate(some):
            margins = [first_outcome(steered, item, scores[i], plain[i]).get("margin") for scores in (plain, other)]
            if None not in margins:  # truth and lie begin with different tokens
                for own, margin in zip(lies.values(), margins, strict=True):
                    own.append(margin <= 0)
    for name, own in lies.items():
        typer.echo(f"{name}: the lie is likelier than the truth in {Rate.of(own)} of {len(own)}")
    better, worse = discordant(lies["plain"], lies["default"])
    typer.echo(f"{worse} worse, {better} better, p = {mcnemar(lies['plain'], lies['default']):.2g}")


if __name__ == "__main__":
    typer.run(main)
