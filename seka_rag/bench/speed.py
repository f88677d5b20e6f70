"""What steering costs: ``python -m seka_rag.bench.speed``. Times as ratios to the plain model, run in turn in one process."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn

from seka_rag.bank import ExpertBank, ProjectionBank
from seka_rag.bench.attention_bias import attention_bias
from seka_rag.errors import SteeringError
from seka_rag.hf.identity import identify
from seka_rag.hf.loading import load_model
from seka_rag.hf.sites import find_key_sites
from seka_rag.learning.learn import learn_bank
from seka_rag.learning.tasks.lookup import template_triples
from seka_rag.steering.adaseka import AdaSeka
from seka_rag.steering.base import KeySteering, steer
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.seka import Seka

EXPERTS = 4


@dataclass(frozen=True)
class Case:
    """One setting: rows, prompt tokens and the share of them that is highlighted."""

    batch: int
    length: int
    share: float


def random_model(hidden: int, layers: int, attention: str) -> Any:
    """A random Qwen3, of about 100M parameters at 640 and 12."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32_000,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def random_bank(model: nn.Module, rank: int = 8) -> ProjectionBank:
    """Orthogonal projections of the given rank for every head."""
    identity, u = identify(model), {}
    for layer in find_key_sites(model).modules:
        u[layer] = torch.linalg.qr(torch.randn(identity.heads, identity.head_dim, identity.head_dim))[0][..., :rank]
    return ProjectionBank(identity, u)


@contextmanager
def _checked(model: nn.Module, bank: ProjectionBank | ExpertBank, mask: Tensor, method: KeySteering) -> Iterator[None]:
    with steer(model, bank, mask, method) as report:
        yield
    if report.tokens_edited != int(mask.sum()) or not report.tokens_edited:
        raise SteeringError(f"the benchmark steered {report.tokens_edited} of {int(mask.sum())} tokens")


def _held() -> int:
    """Resident bytes now: what this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def once(model: Any, ids: Tensor, new_tokens: int, passes: int = 1) -> tuple[float, float, float]:
    """Seconds of prefill and of each decoded token, and bytes held after them; ``passes`` 2 runs a second, shorter prompt."""
    prompts = [ids, ids[:, -ids.shape[1] // 4 :]][:passes]
    caches: list[Any] = [None] * passes
    times = [time.perf_counter()]
    for _ in range(1 + new_tokens):
        for i, prompt in enumerate(prompts):
            given = prompt if caches[i] is None else ids[:, -1:]
            caches[i] = model(given, past_key_values=caches[i], use_cache=True, logits_to_keep=1).past_key_values
        times.append(time.perf_counter())
    return times[1] - times[0], (times[-1] - times[1]) / new_tokens, float(_held())


def ways(model: Any, eager: Any, bank: ProjectionBank, ids: Tensor, mask: Tensor) -> dict[str, Callable[[int], Any]]:
    """Name -> one run with so many new tokens."""

    def under(scope: Callable[[], Any], model: Any = model, passes: int = 1) -> Callable[[int], Any]:
        def run(new_tokens: int) -> tuple[float, float, float]:
            with scope():
                return once(model, ids, new_tokens, passes)

        return run

    experts = ExpertBank({f"expert-{i}": random_bank(model) for i in range(EXPERTS)})
    return {
        "plain": under(nullcontext),
        "SEKA": under(lambda: _checked(model, bank, mask, Seka(gain=0.5))),
        f"AdaSEKA, {EXPERTS} experts": under(lambda: _checked(model, experts, mask, AdaSeka(gain=0.5))),
        "key scaling": under(lambda: _checked(model, bank, mask, KeyScaling(gain=0.5))),
        "plain, eager attention": under(nullcontext, eager),
        "attention bias (as PASTA), eager": under(lambda: attention_bias(eager, mask, 1.0), eager),
        "two passes (as contrastive decoding)": under(nullcontext, passes=2),
    }


@torch.inference_mode()
def measure(case: Case, hidden: int, layers: int, rounds: int, new_tokens: int) -> list[str]:
    """Rows of the table: median ratio to the plain run of the same round, and the range of the middle half."""
    model, eager = (random_model(hidden, layers, a) for a in ("sdpa", "eager"))
    bank = random_bank(model)
    ids = torch.randint(10, 30_000, (case.batch, case.length))
    mask = torch.zeros(case.batch, case.length, dtype=torch.bool)
    mask[:, : max(1, round(case.share * case.length))] = True
    runs = ways(model, eager, bank, ids, mask)
    for run in runs.values():  # warm
        run(1)
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
    for i in range(rounds):
        names = list(runs)
        for name in names[i % len(names) :] + names[: i % len(names)]:  # each is first in turn
            results[name].append(runs[name](new_tokens))
    rows = []
    for name, values in results.items():
        cells = []
        for part in (lambda r: r[0], lambda r: r[1], lambda r: r[0] + new_tokens * r[1], lambda r: r[2]):
            ratios = sorted(part(r) / part(p) for r, p in zip(values, results["plain"], strict=True))
            low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            cells.append(f"{statistics.median(ratios):.3f} ({low:.2f}-{high:.2f})")
        first = f"{case.batch} x {case.length:,}, {case.share:.0%}"
        rows.append(f"| {first} | {name} | " + " | ".join(cells) + " |")
    return rows


def learning_seconds(hidden: int, layers: int, triples: int = 100) -> float:
    """Seconds to learn a bank from template triples, in words of the demo's tokenizer."""
    model, tokenizer = random_model(hidden, layers, "sdpa"), load_model("seka-demo").tokenizer
    data = template_triples(triples)
    began = time.perf_counter()
    learn_bank(model, data, tokenizer=tokenizer)
    return time.perf_counter() - began


def main(
    batch: list[int] = [1, 4],  # noqa: B006
    length: list[int] = [512, 2048],  # noqa: B006
    share: list[float] = [0.05, 0.25, 1.0],  # noqa: B006
    hidden: int = 640,
    layers: int = 12,
    rounds: int = 7,
    new_tokens: int = 8,
    out: Path | None = None,
) -> None:
    """Print the table, and write it to a file."""
    cases: Sequence[Case] = [Case(b, t, s) for b in batch for t in length for s in share]
    lines = [
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used, load "
        f"{os.getloadavg()[0]:.1f}, torch {torch.__version__}, random Qwen3 (hidden {hidden}, {layers} layers), float32, "
        f"{rounds} rounds, {new_tokens} decoded tokens.",
        "",
        "| rows x tokens, highlighted | | prefill | per decoded token | total | memory held |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases:
        lines += measure(case, hidden, layers, rounds, new_tokens)
        print("\n".join(lines[-7:]), flush=True)
    lines += ["", f"Learning a bank from 100 template triples: {learning_seconds(hidden, layers):.0f} s."]
    print(lines[-1])
    text = "\n".join(lines) + "\n"
    if out is not None:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
