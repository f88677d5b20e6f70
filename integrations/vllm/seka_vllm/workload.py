"""What speed and memory are measured with: one engine, and the same random prompts, plain or with a quarter highlighted."""

from __future__ import annotations

import argparse
import os
import random
from dataclasses import dataclass, fields
from typing import Any

from seka_vllm.highlights import Highlights
from seka_vllm.settings import KEY, bank_settings, model_folder


@dataclass(frozen=True)
class Workload:
    """Requests that come at once.

    Attributes:
        model: a folder, a name on the Hub, or ``smollm2``.
        bank: its bank; "auto" for the one that ships with it.
        dtype: of the model.
        compiled: whether vLLM compiles it, with CUDA graphs on a GPU.
        requests: how many at once.
        length: tokens of a prompt.
        new: tokens of an answer.
        cache: GiB for keys and values.
    """

    model: str = "smollm2"
    bank: str = "auto"
    dtype: str = "float32"
    compiled: bool = False
    requests: int = 8
    length: int = 256
    new: int = 32
    cache: int = 1

    @staticmethod
    def add_to(parser: argparse.ArgumentParser) -> None:
        """An option for each attribute."""
        for field in fields(Workload):
            if field.name == "compiled":
                parser.add_argument("--compiled", action="store_true", help="compiled, with CUDA graphs on a GPU")
            else:
                parser.add_argument(f"--{field.name}", default=field.default, type=type(field.default))

    @classmethod
    def of(cls, given: argparse.Namespace) -> Workload:
        """From parsed options."""
        return cls(**{field.name: getattr(given, field.name) for field in fields(cls)})

    @property
    def tokens(self) -> int:
        """Of all prompts and answers."""
        return self.requests * (self.length + self.new)

    def __str__(self) -> str:
        how = f"{self.dtype}, {'compiled' if self.compiled else 'eager'}"
        return f"{self.requests} requests of {self.length} + {self.new} tokens, {self.model}, {how}"

    def engine(self, *, plugin: bool) -> Any:
        """An engine in this process that computes every prompt; without a bank the plugin does nothing in it."""
        from vllm import LLM

        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        return LLM(
            model_folder(self.model),
            additional_config={KEY: bank_settings(self.model, self.bank)} if plugin else {},
            dtype=self.dtype,
            max_model_len=self.length + self.new,
            enforce_eager=not self.compiled,
            max_num_seqs=self.requests,
            max_num_batched_tokens=512,
            enable_prefix_caching=False,
            kv_cache_memory_bytes=self.cache * 2**30,
            gpu_memory_utilization=0.4,  # two engines
            disable_log_stats=True,
        )

    def ask(self, llm: Any, *, highlighted: bool) -> None:
        """Answer all prompts; each that is highlighted must report that it was edited."""
        from vllm import SamplingParams

        draw, marked = random.Random(0), (self.length // 4, self.length // 2)
        vocabulary = llm.llm_engine.model_config.get_vocab_size()
        tokens = range(vocabulary // 8, vocabulary)  # the first ones have a meaning of their own
        prompts = [draw.choices(tokens, k=self.length) for _ in range(self.requests)]
        args = Highlights(((*marked, 1.0),)).as_args() if highlighted else None
        params = SamplingParams(max_tokens=self.new, ignore_eos=True, temperature=0.0, extra_args=args)
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
        edited = [output.kv_transfer_params[KEY]["tokens_edited"] for output in outputs if highlighted]
        assert edited == ([marked[1] - marked[0]] * self.requests if highlighted else [])
