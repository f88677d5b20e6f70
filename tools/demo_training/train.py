"""Train the embedded model: ``python -m tools.demo_training.train --out DIR --seed 0`` (about half an hour on two cores).

Muon on the matrices and AdamW on the rest, loss on answers only, bfloat16 autocast on the CPU or a GPU.
The number of steps is fixed, so a seed gives the same data in the same order everywhere.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tools.demo_training import lessons
from tools.demo_training.tokenizer import build_tokenizer

#: Of the phases: copy, read, weigh passage against memory, twice more with longer contexts and a smaller rate.
STEPS = (400, 1300, 2000, 2000, 2000)
LEARNING_RATE = (3e-3, 3e-3, 2.5e-3, 2e-3, 1.2e-3)
STATEMENTS = ((0, 0), (3, 10), (6, 14), (8, 14), (10, 14))  # most statements a text, first and from 60% of the phase on
NAMES = ("copy", "read", "weigh", "settle", "finish")
TOKENS_PER_STEP = 3072
END_WEIGHT = 0.1  # the end of an answer is easy and half of all learned tokens


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    _look_back(model)
    return model


@torch.no_grad()
def _look_back(model: Qwen3ForCausalLM) -> None:
    """Start the heads of layer 0 as heads that look one, two, about three and about five words back.

    Reading is built on such heads (a word finds its earlier occurrence, a value its name). Without them nothing was
    copied after 1,200 steps; with them copying is learned in 300. Words need one direction in common for it, since
    queries and keys have no bias.
    """
    config, attention = model.config, model.model.layers[0].self_attn
    common = torch.randn(config.hidden_size)
    common *= config.hidden_size**0.5 / common.norm()
    model.get_input_embeddings().weight += config.initializer_range * common
    d, half = config.head_dim, config.head_dim // 2
    angle = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    key, query = torch.zeros(2, d), torch.zeros(4, d)
    # per key-value head: which rotations to use (fast ones tell neighbours apart), and how far back its two queries look
    for head, (pairs, distances) in enumerate(((slice(0, 4), (1, 2)), (slice(2, 7), (3, 5)))):
        key[head, :half][pairs] = 1.0
        for i, back in enumerate(distances):
            query[2 * head + i, :half][pairs] = torch.cos(angle * back)[pairs]
            query[2 * head + i, half:][pairs] = -torch.sin(angle * back)[pairs]
    direction = common / common.norm() ** 2 * 5  # well above the random part of the weights
    attention.k_proj.weight += torch.outer(key.flatten(), direction)
    attention.q_proj.weight += torch.outer(query.flatten(), direction)


def encode(tokenizer: PreTrainedTokenizerFast, batch: list[lessons.Lesson]) -> list[tuple[list[int], list[bool], int]]:
    """Ids, for each token whether it lies in a learned range, and the number of the lesson's kind."""
    encoded = []
    for lesson, encoding in zip(
        batch,
        tokenizer.backend_tokenizer.encode_batch([x.text for x in batch], add_special_tokens=False),
        strict=True,
    ):
        starts, ends = np.array(encoding.offsets).T
        learned = np.zeros(len(starts), bool)
        for start, end in lesson.learned:
            learned |= (starts >= start) & (ends <= end)
        encoded.append((encoding.ids, learned.tolist(), lessons.KINDS.index(lesson.kind)))
    return encoded


def batches(
    tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, phase: int, progress: float
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of similar length, of about ``TOKENS_PER_STEP`` tokens: ids, learned ``[B, T]`` and kinds ``[B]``."""
    low, high = STATEMENTS[phase]
    most = int(low + (high - low) * min(1.0, progress / 0.6))
    pool = encode(tokenizer, [lessons.write_lesson(rng, phase, most) for _ in range(600)])
    pool.sort(key=lambda x: len(x[0]))
    groups, group = [], []
    for item in pool:
        group.append(item)
        if len(item[0]) * (len(group) + 1) > TOKENS_PER_STEP:
            groups.append(group)
            group = []
    if group:
        groups.append(group)
    for i in rng.permutation(len(groups)):
        length = max(len(item[0]) for item in groups[i])
        ids = torch.zeros(len(groups[i]), length, dtype=torch.long)
        learned = torch.zeros_like(ids, dtype=torch.bool)
        for row, (x, y, _) in enumerate(groups[i]):
            ids[row, : len(x)], learned[row, : len(y)] = torch.tensor(x), torch.tensor(y)
        yield ids, learned, torch.tensor([kind for _, _, kind in groups[i]])


def train_phase(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, phase: int, seed: int, steps: int) -> None:
    device = model.device
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    rate = LEARNING_RATE[phase]
    optimizers = [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    rng = np.random.default_rng([seed, phase])
    queue: Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = iter(())
    tokens, began = 0, time.perf_counter()
    totals = torch.zeros(2, len(lessons.KINDS), device=device)
    model.train()
    for step in range(steps):
        progress = step / steps
        scale = min(1.0, (step + 1) / 100)
        if phase >= lessons.WEIGH and progress > 0.6:
            scale = max(0.02, 1 - (progress - 0.6) / 0.4)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
        batch = next(queue, None)
        if batch is None:
            queue = batches(tokenizer, rng, phase, progress)
            batch = next(queue)
        ids, learned, kinds = (x.to(device) for x in batch)
        with torch.autocast(device.type, torch.bfloat16):
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            wanted = learned[:, 1:]
            logits = model.lm_head(hidden[wanted])
        losses = F.cross_entropy(logits.float(), ids[:, 1:][wanted], reduction="none")
        weights = torch.where(ids[:, 1:][wanted] == tokenizer.eos_token_id, END_WEIGHT, 1.0)
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens += ids.numel()
        of = kinds[:, None].expand_as(wanted)[wanted]
        totals[0].index_add_(0, of, losses.detach() * weights)
        totals[1].index_add_(0, of, weights)
        if (step + 1) % 100 == 0:
            speed = tokens / (time.perf_counter() - began)
            means = " ".join(f"{k} {a / n:.2f}" for k, a, n in zip(lessons.KINDS, *totals.tolist(), strict=True) if n)
            print(f"{NAMES[phase]} step {step + 1}/{steps} {speed:,.0f} tokens/s, loss: {means}", flush=True)
            totals.zero_()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs=len(STEPS), default=STEPS, metavar=tuple(n.upper() for n in NAMES))
    parser.add_argument("--resume", type=Path, help="a checkpoint written after a phase")
    parser.add_argument("--from-phase", choices=NAMES, default="copy", help="the phase to begin with")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = build_tokenizer(lessons.vocabulary_texts())
    model = Qwen3ForCausalLM.from_pretrained(args.resume) if args.resume else new_model(tokenizer, args.seed)
    model = model.to(device)
    for phase in range(NAMES.index(args.from_phase), len(NAMES)):
        train_phase(model, tokenizer, phase, args.seed, args.steps[phase])
        out = args.out if phase == lessons.FINISH else args.out / NAMES[phase]
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    (args.out / "training.json").write_text(json.dumps({"seed": args.seed, "steps": args.steps}))


if __name__ == "__main__":
    main()
