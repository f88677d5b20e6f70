"""What steering costs: ``python -m seka_rag.bench.speed``. Ratios to the plain model, run in turn in one process."""

from __future__ import annotations

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn

from seka_rag.bank import ExpertBank, ProjectionBank
from seka_rag.bench import learning
from seka_rag.bench.meters import free, now, peak, start_peak
from seka_rag.bench.models import random_bank, random_model
from seka_rag.errors import SteeringError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import recording
from seka_rag.hf.marks import Marks
from seka_rag.steering.adaseka import AdaSeka
from seka_rag.steering.attention_bias import AttentionBias
from seka_rag.steering.base import SteeringMethod, steer
from seka_rag.steering.context_aware import ContextAware
from seka_rag.steering.key_bias import KeyBias
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.key_vector import KeyVector
from seka_rag.steering.prism import Prism
from seka_rag.steering.seka import Seka

EXPERTS = 4


@dataclass(frozen=True)
class Way:
    """One way to run the model: what is open meanwhile, and which attention."""

    name: str
    scope: Callable[[], AbstractContextManager[None]] = nullcontext
    attention: str = "sdpa"


@dataclass(frozen=True)
class Cost:
    """Of one run: seconds of the prefill, of each decoded token and of everything, and the most bytes held."""

    prefill: float
    token: float
    total: float
    peak: float


@contextmanager
def _checked(
    model: nn.Module, bank: ProjectionBank | ExpertBank, mask: Tensor, method: SteeringMethod
) -> Iterator[None]:
    with steer(model, bank, mask, method) as report:
        yield
    if report.tokens_edited != int(mask.sum()) or not report.tokens_edited:
        raise SteeringError(f"the benchmark steered {report.tokens_edited} of {int(mask.sum())} tokens")


def once(model: Any, ids: Tensor, new_tokens: int, way: Way) -> Cost:
    """One run: the prompt, then so many tokens, one at a time."""
    cache: Any = None
    start_peak(ids.device)
    times = [now(ids.device)]
    with way.scope():
        for _ in range(1 + new_tokens):
            given = ids if cache is None else ids[:, -1:]
            cache = model(given, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values
            times.append(now(ids.device))
    end = now(ids.device)
    return Cost(times[1] - times[0], (times[-1] - times[1]) / new_tokens, end - times[0], float(peak(ids.device)))


def ways(
    model: Any, banks: tuple[ProjectionBank, ExpertBank], shape: tuple[int, int], shares: list[float]
) -> list[Way]:
    """All of them, what matters most first; others than SEKA and AdaSEKA highlight the middle one of the shares."""
    bank, experts = banks
    masks = {share: _first(shape, share) for share in shares}
    middle = shares[len(shares) // 2]

    def steered(
        name: str, bank: ProjectionBank | ExpertBank, share: float, method: SteeringMethod, attention: str = "sdpa"
    ) -> Way:
        return Way(f"{name}, {share:.0%} highlighted", lambda: _checked(model, bank, masks[share], method), attention)

    return [
        Way("plain"),
        *(steered("SEKA", bank, share, Seka(gain=0.5)) for share in reversed(shares)),
        Way("plain, again"),
        *(steered(f"AdaSEKA of {EXPERTS} experts", experts, share, AdaSeka(gain=0.5)) for share in shares),
        steered("key scaling", bank, middle, KeyScaling(gain=0.5)),
        steered("key bias", bank, middle, KeyBias(bias=2.0, cap=100.0)),
        steered("key bias of the request", bank, middle, KeyBias(bias=2.0, form="request", cap=100.0)),
        steered("key vectors", bank, middle, KeyVector()),
        steered("key vectors that fade after 4 tokens", bank, middle, KeyVector(fade=4)),
        steered("PRISM, keys and values", bank, middle, Prism(gain=0.4, gain_value=0.1)),
        steered("contrastive decoding", bank, middle, ContextAware()),
        steered("attention bias", bank, middle, AttentionBias(bias=1.0)),
        Way("plain, eager attention", attention="eager"),
        steered("attention bias, eager", bank, middle, AttentionBias(bias=1.0), "eager"),
    ]


def _first(shape: tuple[int, int], share: float) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, : max(1, round(share * shape[1]))] = True
    return mask


@torch.inference_mode()
def measure(
    model: Any, ids: Tensor, given: list[Way], rounds: int, new_tokens: int, seconds: float
) -> dict[str, list[Cost]]:
    """Name -> cost in each round. A way that cannot be run any more within the time, or in the memory, has none."""
    costs: dict[str, list[Cost]] = {way.name: [] for way in given}
    fitting = [w for w in given if w.attention != "eager" or _scores(model, ids) < free(ids.device)]
    if ids.device.type == "cuda":  # the first run places factors and loads kernels
        for way in fitting:
            model.set_attn_implementation(way.attention)
            once(model, ids, 1, way)
    began = time.perf_counter()
    for i in range(rounds):
        used = time.perf_counter() - began
        if i and used * (i + 1) > seconds * i:  # another round like those before would not fit
            break
        # after the first round in another order each time, so that none always follows the same one
        for way in random.Random(i).sample(fitting, len(fitting)) if i else fitting:
            if i == 0 and way is not given[0] and time.perf_counter() - began > seconds:
                break
            model.set_attn_implementation(way.attention)
            costs[way.name].append(once(model, ids, new_tokens, way))
    model.set_attn_implementation("sdpa")
    return costs


def _scores(model: Any, ids: Tensor) -> int:
    """Bytes of the attention scores that eager attention holds at a time: as they are, masked, and two of the softmax."""
    heads: int = model.config.num_attention_heads
    return 4 * 4 * heads * ids.shape[0] * ids.shape[1] ** 2


def table(costs: dict[str, list[Cost]], ids: Tensor) -> Iterator[str]:
    """A row for each way: median ratio to the plain run of the same round, the range of the middle half, and seconds."""
    plain = costs["plain"]
    for name, found in costs.items():
        size = f"{ids.shape[0]} x {ids.shape[1]:,}"
        if not found:
            yield f"| {size} | {name} | not run: too much time or memory | | | | |"
            continue
        cells = []
        for part in ("prefill", "token", "total", "peak"):
            ratios = [getattr(c, part) / getattr(p, part) for c, p in zip(found, plain, strict=False)]
            low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            cells.append(f"{statistics.median(ratios):.3f} ({low:.2f}-{high:.2f})")
        seconds, token = (statistics.median(getattr(c, part) for c in found) for part in ("prefill", "token"))
        cells.append(f"{seconds:.3g} s, {1000 * token:.3g} ms, {max(c.peak for c in found) / 2**20:,.0f} MiB")
        yield f"| {size} | {name} ({len(found)}) | " + " | ".join(cells) + " |"


@torch.inference_mode()
def time_of_edits(model: Any, bank: ProjectionBank, ids: Tensor, mask: Tensor, runs: int = 5) -> float:
    """Seconds that SEKA's edits of one prefill take by themselves: less noisy than the difference of two prefills."""
    edits = Seka(gain=0.5).edits(bank, find_key_sites(model))
    part = Marks(mask).window(0, ids.shape[1], ids.shape[0]).to(ids.device)
    with recording(find_key_sites(model)) as keys:
        model(ids, use_cache=False, logits_to_keep=1)
    times = []
    for _ in range(runs):
        began = now(ids.device)
        for layer, edit in edits.items():
            edit.to(ids.device).apply(keys[layer], part, None)
        times.append(now(ids.device) - began)
    return statistics.median(times)


@torch.inference_mode()
def added_host_time(model: Any, bank: ProjectionBank, device: str, runs: int = 30) -> float:
    """Seconds that steering adds to what the host does in one prefill: of so few tokens that nothing waits for the device."""
    ids = torch.full((1, 16), 10, device=device)
    mask = _first((1, 16), 0.25)
    times: dict[str, list[float]] = {"plain": [], "steered": []}
    for _ in range(runs):
        for name, scope in (("plain", nullcontext), ("steered", lambda: _checked(model, bank, mask, Seka(gain=0.5)))):
            now(ids.device)  # the device is idle
            began = time.perf_counter()
            with scope():
                model(ids, use_cache=True, logits_to_keep=1)
                host = time.perf_counter() - began
            times[name].append(host)
    return statistics.median(s - p for s, p in zip(times["steered"], times["plain"], strict=True))


def main(
    batch: list[int] = [1, 4],  # noqa: B006
    length: list[int] = [512, 2048, 8192],  # noqa: B006
    share: list[float] = [0.05, 0.25, 1.0],  # noqa: B006
    hidden: int = 768,
    layers: int = 12,
    device: str = "cpu",
    dtype: str = "float32",
    rounds: int = 7,
    seconds: float = 300,
    new_tokens: int = 8,
    triples: int = 10,
    only: str = "",
    out: Path | None = None,
) -> None:
    """Print the tables, and write them to a file.

    SECONDS is for each size; TRIPLES 0 leaves learning out; ONLY takes, beside plain, the ways with this in their names.
    """
    kind = getattr(torch, dtype)
    model = random_model(hidden, layers, device=device, dtype=kind)
    bank = random_bank(model)
    banks = bank, ExpertBank({f"expert-{i}": random_bank(model) for i in range(EXPERTS)})
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)
        if out is not None:
            out.write_text("\n".join(lines) + "\n", encoding="utf-8")

    where = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    say(
        f"{where}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used, load {os.getloadavg()[0]:.1f}, torch "
        f"{torch.__version__}, random Qwen3 of {model.num_parameters() / 1e6:.0f}M parameters (hidden {hidden}, {layers} "
        f"layers), {dtype}, {new_tokens} decoded tokens; the number of rounds stands behind each name.\n"
    )
    say("| rows x tokens | | prefill | per decoded token | total | peak memory | prefill, token, peak |")
    say("|---|---|---|---|---|---|---|")
    for shape in [(1, 128), *((b, t) for t in length for b in batch)]:  # the first warms up
        ids = torch.randint(10, 30_000, shape, device=device)
        warming = shape == (1, 128)
        chosen = [w for w in ways(model, banks, shape, share) if only in w.name or w.name in ("plain", "plain, again")]
        costs = measure(model, ids, chosen, 1 if warming else rounds, new_tokens, seconds)
        for row in table(costs, ids) if not warming else ():
            say(row)
        prefill = statistics.median(c.prefill for c in costs["plain"])
        for part in share if not warming else ():
            alone = time_of_edits(model, bank, ids, _first(shape, part)) / prefill
            say(
                f"| {shape[0]} x {shape[1]:,} | the edits of SEKA alone, {part:.0%} highlighted | {alone:.4f} | | | | |"
            )
    say(f"\nAdded host time of a steered prefill: {1000 * added_host_time(model, bank, device):.2f} ms.\n")
    if triples:
        for line in learning.rows(hidden, layers, min(rounds, 3), triples, device, kind):
            say(line)


if __name__ == "__main__":
    typer.run(main)
