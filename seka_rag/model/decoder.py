"""Decoder: batches of tokens to answers, through transformers' generate and under steering."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import nn

from seka_rag.bank import ExpertBank, ProjectionBank, load_bank
from seka_rag.errors import ContextLengthError, GenerationTimeoutError, SettingError, SteeringError
from seka_rag.hf.forms import answer_form
from seka_rag.hf.grammar import Constrained, Vocabulary
from seka_rag.hf.identity import identify
from seka_rag.hf.output import StopAfter, StopOnEvent, StopOnText, TextPieces
from seka_rag.hf.sites import text_config
from seka_rag.hf.tokens import TokenizedPrompt, pad, pad_id
from seka_rag.model.generation import Generation, finished
from seka_rag.model.prefix import Prefix
from seka_rag.steering.adaseka import AdaSeka, route
from seka_rag.steering.base import KeySteering, SteeringReport, steer
from seka_rag.steering.registry import as_steering
from seka_rag.steering.seka import Seka

Steering = KeySteering | Literal["auto"] | None
Truncation = Literal["error", "left"]
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
_SPECULATIVE = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")
_random = threading.Lock()  # sampling draws from torch's global generator


class Decoder:
    """A model, its tokenizer and its bank; takes tokens. ``SteeredModel`` adds text, conversations, streams and async."""

    def __init__(
        self,
        hf_model: nn.Module,
        tokenizer: Any,
        *,
        bank: ProjectionBank | ExpertBank | str | os.PathLike[str] | None = None,
        steering: KeySteering | None = None,
        name: str | None = None,
    ) -> None:
        self.hf_model, self.tokenizer = hf_model, tokenizer
        self.name = name or getattr(hf_model.config, "_name_or_path", "") or type(hf_model).__name__
        self.bank = load_bank(bank) if isinstance(bank, str | os.PathLike) else bank
        if self.bank is not None:
            self.bank.model.check(identify(hf_model))
        self.steering = steering
        self._vocabulary: Vocabulary | None = None

    @property
    def context_length(self) -> int | None:
        """Most tokens of prompt and answer together, or None if the model does not say."""
        return getattr(text_config(self.hf_model), "max_position_embeddings", None)

    def _grammar_vocabulary(self) -> Vocabulary:
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(
                self.tokenizer, text_config(self.hf_model).vocab_size, sorted(self._end_ids())
            )
        return self._vocabulary

    def _method(self, steering: Steering, highlighted: bool) -> KeySteering | None:
        steering = as_steering(steering)
        if steering is None or not highlighted:
            return None
        if self.bank is None:
            raise SteeringError(
                f"the prompt has highlights, but {self.name} has no bank. Learn one (seka-rag learn, learn_bank), pass "
                "bank=..., or pass steering=None to run unsteered"
            )
        if steering != "auto":
            return steering
        usual = AdaSeka if isinstance(self.bank, ExpertBank) else Seka
        return self.steering or usual(gain=self.bank.suggested_gain)

    def _fit(self, prompt: TokenizedPrompt, new_tokens: int, truncate: Truncation) -> TokenizedPrompt:
        if truncate not in ("error", "left"):
            raise SettingError(f"truncate={truncate!r}: use 'error', or 'left' to drop the beginning")
        limit = self.context_length
        room = None if limit is None else limit - new_tokens
        if not len(prompt):
            raise ContextLengthError("the prompt is empty: it has no tokens")
        if room is None or len(prompt) <= room:
            return prompt
        if truncate == "error" or room < 1:
            raise ContextLengthError(
                f"the prompt has {len(prompt)} tokens and {new_tokens} new ones are asked for, but {self.name} has a context "
                f"of {limit}. Shorten the prompt, ask for fewer new tokens, or pass truncate='left' to drop its beginning"
            )
        lost = sum(w > 0 for w in prompt.weights[:-room])
        if lost:
            raise ContextLengthError(
                f"truncating to {room} tokens would drop {lost} highlighted tokens at the beginning of the prompt; put "
                "highlights later, or retrieve less text"
            )
        return TokenizedPrompt(prompt.ids[-room:], prompt.weights[-room:], prompt.offsets[-room:])

    def _run(self, prompts: list[TokenizedPrompt], *, prefix: Prefix | None = None, **options: Any) -> list[Generation]:
        if prefix is None or len({len(p) for p in prompts}) < 2:
            return self._run_batch(prompts, prefix=prefix, **options)
        return [g for p in prompts for g in self._run_batch([p], prefix=prefix, **options)]  # no padding after a prefix

    def _run_batch(
        self,
        prompts: list[TokenizedPrompt],
        *,
        prefix: Prefix | None,
        steering: Steering = "auto",
        max_new_tokens: int = 256,
        stop: Sequence[str] | str | None = None,
        seed: int | None = None,
        truncate: Truncation = "error",
        timeout: float | None = None,
        tools: Sequence[Any] | None = None,
        tool_choice: str = "auto",
        strict: bool = False,
        json_schema: Any = None,
        pieces: Any = None,
        cancel: threading.Event | None = None,
        **options: Any,
    ) -> list[Generation]:
        if not prompts:
            return []
        stop = [s for s in ([stop] if isinstance(stop, str) else stop or ()) if s]
        prompts = [self._fit(p, max_new_tokens, truncate if prefix is None else "error") for p in prompts]
        batch = pad(prompts, pad_id(self.tokenizer))
        weights, method = batch.weights, self._method(steering, bool((batch.weights > 0).any()))
        if prefix is not None:
            prefix.check(self.hf_model, self.bank, method, prompts)
            if any(options.get(name) is not None for name in _SPECULATIVE):
                raise SettingError(
                    "transformers' assisted decoding and prompt lookup compute the whole prompt again on top of a cache that "
                    "holds its beginning; use them without prefix"
                )
            copies = max(options.get("num_beams") or 1, options.get("num_return_sequences") or 1)
            options["past_key_values"] = prefix.cache(len(prompts) * copies)
            weights = weights.clone()
            weights[:, : len(prefix)] = 0  # they are in the cache
        device = next(self.hf_model.parameters()).device
        length = batch.input_ids.shape[1]
        sampling = options.pop("do_sample", None)
        if sampling is None:
            sampling = any(options.get(name) is not None for name in _SAMPLING) and options.get("temperature") != 0
        if not sampling:
            options = {**options, **dict.fromkeys(_SAMPLING)}
        form = answer_form(
            self.tokenizer,
            self._grammar_vocabulary,
            tools=tools or (),
            tool_choice=tool_choice,
            strict=strict,
            json_schema=json_schema,
        )
        if form.grammar is not None:
            if (options.get("num_beams") or 1) > 1:
                raise SettingError(
                    "a schema or forced tool call cannot be combined with beam search: leave num_beams out"
                )
            held = Constrained(self._grammar_vocabulary(), form.grammar, length)
            options["logits_processor"] = [held, *(options.get("logits_processor") or ())]
        criteria = [StopOnText(form.decode, length, stop)] if stop else []
        criteria += [StopOnEvent(cancel)] if cancel else []
        clock = StopAfter(timeout) if timeout is not None else None
        criteria += [clock] if clock else []
        report = SteeringReport()
        if method is None and isinstance(steering, KeySteering):
            report.warnings.append("nothing is highlighted: the model runs unsteered")
        with ExitStack() as stack:
            if sampling:
                stack.enter_context(_random)
                if seed is not None:
                    devices = [device] if device.type == "cuda" else []
                    stack.enter_context(torch.random.fork_rng(devices=devices))
                    torch.manual_seed(seed)
            if method is not None and bool((weights > 0).any()):
                assert self.bank is not None
                routing = None
                if isinstance(method, AdaSeka) and method.two_pass and isinstance(self.bank, ExpertBank):
                    ids, attention = batch.input_ids.to(device), batch.attention_mask.to(device)
                    routing = route(self.hf_model, self.bank, method, ids, attention)
                report = stack.enter_context(steer(self.hf_model, self.bank, weights, method, routing=routing))
            output = self.hf_model.generate(  # type: ignore[operator]
                input_ids=batch.input_ids.to(device),
                attention_mask=batch.attention_mask.to(device),
                max_new_tokens=max_new_tokens,
                do_sample=sampling,
                pad_token_id=pad_id(self.tokenizer),
                stopping_criteria=[*criteria, *options.pop("stopping_criteria", ())],
                streamer=TextPieces(form, stop, self._end_ids(), pieces) if pieces else None,
                **options,
            )
        if clock is not None and clock.over:
            raise GenerationTimeoutError(
                f"no answer of {self.name} within {timeout} seconds; raise timeout, or ask for less"
            )
        if prefix is not None:
            report = prefix.joined(report, len(prompts))
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        ends = self._end_ids()
        times = len(sequences) // len(prompts)
        return [
            finished(
                ids,
                form,
                stop=stop,
                ends=ends,
                prompt_tokens=len(prompts[i // times]),
                report=report.of_row(i // times, sum(w > 0 for w in prompts[i // times].weights)),
            )
            for i, ids in enumerate(sequences[:, length:].tolist())
        ]

    def _end_ids(self) -> set[int]:
        config: Any = getattr(self.hf_model, "generation_config", None)
        ids = getattr(config, "eos_token_id", None)
        ids = self.tokenizer.eos_token_id if ids is None else ids
        return set(ids) if isinstance(ids, list) else {ids}
