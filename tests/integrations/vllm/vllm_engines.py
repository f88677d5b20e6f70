"""Small models for vLLM, engines in this process, and what transformers says of the same requests."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from seka_vllm.highlights import Highlights
from tiny import demo_tokenizer, random_bank, tiny_model

from seka_rag import AdaSeka, ProjectionBank, SteeringMethod, steer
from seka_rag.hf.find import find_key_sites

STEPS = 6
#: Sizes that the kernels of vLLM on a CPU take.
SIZES = {"hidden_size": 128, "head_dim": 32, "max_position_embeddings": 1024, "initializer_range": 0.1}


def with_vectors(bank: ProjectionBank, size: float = 1.0) -> ProjectionBank:
    """The bank with a random vector for each head, for KeyVector."""
    generator = torch.Generator().manual_seed(5)
    shape = (bank.model.heads, bank.model.head_dim)
    vectors = {layer: size * torch.randn(shape, generator=generator) for layer in range(bank.model.layers)}
    return ProjectionBank(
        bank.model, bank.positive, bank.negative, queries=bank.queries, vectors=vectors, values=bank.values
    )


def save_tiny(folder: Path, family: str, **settings: Any) -> tuple[Any, ProjectionBank]:
    """A tiny random model of a family with the demo's tokenizer, and a bank, in ``folder/model`` and ``folder/bank``."""
    tokenizer = demo_tokenizer()
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    model = tiny_model(family, **{"vocab_size": len(tokenizer), **SIZES, **ids, **settings})
    bank = with_vectors(random_bank(model))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    bank.save(folder / "bank")
    return model, bank


@dataclass(frozen=True)
class Asked:
    """One request: a prompt of tokens, and its highlights."""

    prompt: tuple[int, ...]
    highlights: Highlights | None = None


def mixed(vocabulary: int, count: int = 6, seed: int = 0, *, longest: int = 300) -> list[Asked]:
    """Plain and steered requests, many of them with a common beginning."""
    draw = random.Random(seed)
    base = [draw.randrange(8, vocabulary) for _ in range(300)]
    first = [
        Asked(tuple(base[:200])),
        Asked(tuple(base[:200]), Highlights(((140, 160, 1.0),))),
        Asked(tuple(base[:200]), Highlights(((140, 160, 1.0),), strength=-0.6)),
        Asked(tuple(base[:37] + base[90:180]), Highlights(((3, 9, 1.0), (40, 60, 0.5)), strength=1.5)),
        Asked(tuple(base[:300]), Highlights(((150, 290, 1.0),), strength=0.9)),
        Asked(tuple(base[:300])),
    ]
    first = [one for one in first if len(one.prompt) <= longest]
    while len(first) < count:
        length = draw.randrange(20, longest)
        start = draw.randrange(0, length - 10)
        weight = draw.choice([0.5, 1.0, 2.0])
        spans = ((start, draw.randrange(start + 1, length + 1), weight),)
        highlights = Highlights(spans, draw.choice([None, 0.4, 1.2])) if draw.random() < 0.6 else None
        first.append(Asked(tuple(base[:length]), highlights))
    return first[:count]


@torch.inference_mode()
def reference(
    hf_model: Any, bank: ProjectionBank, method: SteeringMethod, asked: Sequence[Asked], steps: int = STEPS
) -> list[tuple[list[int], torch.Tensor]]:
    """Greedy tokens of transformers, and the log-probabilities ``[steps, vocabulary]`` that they were chosen from."""
    results, usual = [], method.strength
    for one in asked:
        ids = torch.tensor([one.prompt])
        mask = torch.zeros(1, len(one.prompt))
        strength = usual
        if one.highlights is not None:
            strength = one.highlights.strength or strength
            for start, stop, weight in one.highlights.spans:
                mask[0, start:stop] = weight
        method = method.with_strength(strength)
        prepared = method.prepare(hf_model, bank, ids, torch.ones_like(ids)) if isinstance(method, AdaSeka) else None
        with steer(hf_model, bank, mask, method, prepared=prepared):
            out = hf_model.generate(
                ids,
                max_new_tokens=steps,
                min_new_tokens=steps,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        scores = torch.stack(out.logits)[:, 0].float().log_softmax(-1)
        results.append((out.sequences[0, len(one.prompt) :].tolist(), scores))
    return results


#: Of engines in tests: chunks of 64 tokens, a prefix cache, all log-probabilities.
OPTIONS = {
    "dtype": "float32",
    "max_model_len": 512,
    "enforce_eager": True,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "block_size": 32,
    "enable_prefix_caching": True,
    "max_logprobs": -1,
    "seed": 0,
}


@contextmanager
def engine(
    model: str | Path, bank: str | Path | None, steering: SteeringMethod | None = None, **options: Any
) -> Iterator[Any]:
    """vLLM in this process; ``bank`` None for one without the plugin's settings."""
    from vllm import LLM

    seka = {"banks": {"main": {"bank": str(bank), "steering": steering and steering.as_dict()}}}
    given = {**OPTIONS, "additional_config": {} if bank is None else {"seka": seka}, **options}
    llm = LLM(str(model), **given)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


def params(one: Asked, steps: int = STEPS, logprobs: int | None = -1) -> Any:
    from vllm import SamplingParams

    args = None if one.highlights is None else one.highlights.as_args()
    return SamplingParams(
        max_tokens=steps, min_tokens=steps, temperature=0.0, logprobs=logprobs, extra_args=args, ignore_eos=True
    )


def answers(
    llm: Any, asked: Sequence[Asked], steps: int = STEPS, logprobs: int = -1
) -> list[tuple[list[int], torch.Tensor, Any]]:
    """Tokens, log-probabilities ``[steps, vocabulary]`` (NaN where not asked for) and the output, of all requests at once."""
    prompts = [{"prompt_token_ids": list(one.prompt)} for one in asked]
    outputs = llm.generate(prompts, [params(one, steps, logprobs) for one in asked], use_tqdm=False)
    vocabulary = llm.llm_engine.model_config.get_vocab_size()
    found = []
    for output in outputs:
        (done,) = output.outputs
        scores = torch.full((len(done.logprobs), vocabulary), float("nan"))
        for row, step in zip(scores, done.logprobs, strict=True):
            row[list(step)] = torch.tensor([value.logprob for value in step.values()])
        found.append((list(done.token_ids), scores, output))
    return found


def largest_difference(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The largest difference of log-probabilities up to the first token that differs, that one's included."""
    worst = 0.0
    for (tokens, scores, *_), (others, expected, *_) in zip(found, wanted, strict=True):
        for i in range(len(others)):
            worst = max(worst, float((scores[i] - expected[i]).abs().nan_to_num(0).max()))
            if tokens[i] != others[i]:
                break
    return worst


def layers_of(hf_model: Any) -> int:
    return find_key_sites(hf_model).layers


def use_this_process() -> None:
    """Settings of the environment for engines in tests."""
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_NO_USAGE_STATS="1",
        VLLM_LOGGING_LEVEL="WARNING",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
    )
