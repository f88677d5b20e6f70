"""SteeredModel: a language model that follows what is highlighted in its prompt."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal, overload

import torch
from torch import nn

from seka_rag.bank import ExpertBank, ProjectionBank, load_bank
from seka_rag.errors import ContextLengthError, GenerationTimeoutError, SettingError, SteeringError
from seka_rag.generation import Generation, finished
from seka_rag.hf.chat import Message, render_chat
from seka_rag.hf.forms import answer_form, knows_tools
from seka_rag.hf.grammar import Constrained, Vocabulary
from seka_rag.hf.identity import identify
from seka_rag.hf.loading import load_model
from seka_rag.hf.output import StopAfter, StopOnEvent, StopOnText, TextPieces
from seka_rag.hf.sites import text_config
from seka_rag.hf.tokens import TokenizedPrompt, pad, pad_id, tokenize
from seka_rag.prefix import Prefix
from seka_rag.scope import in_scope, messages_in_scope
from seka_rag.steering.adaseka import AdaSeka, route
from seka_rag.steering.base import KeySteering, SteeringReport, steer
from seka_rag.steering.registry import as_steering
from seka_rag.steering.seka import Seka
from seka_rag.stream import TextStream
from seka_rag.text.prompt import Prompt

Input = Prompt | str | TokenizedPrompt
Steering = KeySteering | Literal["auto"] | None
Truncation = Literal["error", "left"]
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
_SPECULATIVE = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")
_random = threading.Lock()  # sampling draws from torch's global generator


class SteeredModel:
    """A transformers model, its tokenizer and, for steering, a bank.

    Safe to use from several threads: steering belongs to one call. The model itself is never changed.

    Args:
        hf_model: a causal language model of transformers.
        tokenizer: its fast tokenizer.
        bank: a ProjectionBank or ExpertBank, the folder of one, or its name on the Hub. Without it the model runs unsteered
            and refuses highlights.
        steering: the method used when a call names none; by default SEKA, or AdaSEKA with experts, at the gain that the
            bank suggests.
        name: for reports and metadata.

    Raises:
        BankError: the bank belongs to another model.
    """

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

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        bank: ProjectionBank | ExpertBank | str | os.PathLike[str] | None = None,
        steering: KeySteering | None = None,
        **options: Any,
    ) -> SteeredModel:
        """Load a model from the Hub, a folder, or the built-in ``seka-demo`` (which brings its bank).

        Args:
            options: passed to transformers (``dtype``, ``device_map``, ``revision``, ...).

        Raises:
            ModelNotFoundError: neither here nor on the Hub.
        """
        loaded = load_model(name, **options)
        return cls(
            loaded.hf_model, loaded.tokenizer, bank=loaded.bank if bank is None else bank, steering=steering, name=name
        )

    def __repr__(self) -> str:
        return f"SteeredModel({self.name!r}, bank={self.bank!r})"

    @property
    def context_length(self) -> int | None:
        """Most tokens of prompt and answer together, or None if the model does not say."""
        return getattr(text_config(self.hf_model), "max_position_embeddings", None)

    @property
    def can_call_tools(self) -> bool:
        """Whether the chat template writes tool calls in a form that is known here."""
        return knows_tools(self.tokenizer)

    # --- prompts

    @overload
    def generate(self, prompt: Input, **options: Any) -> Generation: ...
    @overload
    def generate(self, prompt: Sequence[Input], **options: Any) -> list[Generation]: ...
    def generate(self, prompt: Input | Sequence[Input], **options: Any) -> Generation | list[Generation]:
        """Continue a prompt, or several in one batch.

        Args:
            prompt: plain text, a Prompt with highlights, or the result of ``tokenize``; a list is one left-padded batch
                whose rows may differ.
            steering: a method; "auto" (default) steers with the model's own method if anything is highlighted;
                None runs the plain model.
            max_new_tokens: most tokens of the answer (default 256).
            stop: strings that end the answer; they are not part of it.
            seed: makes sampling repeatable.
            timeout: seconds after which an answer that is not ready is an error; by default it may take any time.
            prefix: the result of ``prefill``; ``prompt`` then continues it. Rows of different length run one after another.
            truncate: what to do with a prompt that does not fit the context: "error", or "left" to drop its beginning
                (never a highlight).
            json_schema: hold the answer to a JSON schema (a dict, a pydantic model, or True for any object); it is
                complete JSON unless ``finish_reason`` is "length". Needs ``seka-rag[structured]``.
            tools, tool_choice, strict: see ``chat``; here they only say how to read the answer.
            options: anything else that transformers' ``generate`` takes. Without a sampling option it is greedy.

        Returns:
            One Generation for one prompt, a list for a list. With ``num_return_sequences`` n, always a list, n a prompt.

        Raises:
            ContextLengthError: the prompt does not fit, or a highlight would be cut off.
            SteeringError: highlights without a bank, steering that did not take place, or a prefix made with other steering.
            TokenizationError: the tokens of the prefix are not the first tokens of the whole prompt.
            GenerationTimeoutError: ``timeout`` has passed.
        """
        single, prompts = _listed(prompt)
        return _unwrapped(self._run(self._tokens(prompts, options), **options), single)

    def prefill(self, prompt: Input, *, steering: Steering = "auto") -> Prefix:
        """Compute the beginning that several prompts share (a system prompt, passages) once, highlights included.

        ``generate(question, prefix=model.prefill(passages))`` gives what ``generate(passages + question)`` gives. The
        prefix never changes and may be used from several threads; it holds the cache of its tokens.

        Raises:
            SteeringError: as in ``generate``; or highlights to be steered by experts, which the question is to choose.
        """
        tokens = self._fit(self.tokenize(prompt), 0, "error")
        text = None if isinstance(prompt, TokenizedPrompt) else Prompt("") + prompt
        method = self._method(steering, any(w > 0 for w in tokens.weights))
        return Prefix.compute(self.hf_model, self.bank, method, tokens, text)

    def stream(self, prompt: Input, **options: Any) -> TextStream[Generation]:
        """The answer in pieces as it is generated. Options as in ``generate``.

        Leaving the loop early, or ``close()``, ends the generation. After the last piece, ``.result`` is the Generation.
        """
        return self._stream(self._tokens([prompt], options)[0], **options)

    async def agenerate(self, prompt: Input | Sequence[Input], **options: Any) -> Generation | list[Generation]:
        """``generate`` without blocking the event loop; cancelling the task ends the generation."""
        single, prompts = _listed(prompt)
        return _unwrapped(await self._arun(self._tokens(prompts, options), **options), single)

    def astream(self, prompt: Input, **options: Any) -> AsyncIterator[str]:
        """``stream`` for ``async for``."""
        return self._stream(self._tokens([prompt], options)[0], **options).__aiter__()

    # --- conversations

    def chat(
        self, messages: Sequence[Message], *, template: dict[str, Any] | None = None, **options: Any
    ) -> Generation:
        """Answer a conversation through the model's own chat template.

        Args:
            messages: ``{"role": ..., "content": str or Prompt}``; highlights of every message are kept. An assistant's may
                have ``tool_calls`` (such as those of a Generation), a tool's the ``tool_call_id`` that it answers.
            template: further arguments of the chat template.
            options: as in ``generate``, and

                tools: what the model may call, each ``{"type": "function", "function": {"name", "description",
                "parameters"}}``. tool_choice: "auto" (the model decides), "none", or "any" or a name: one call, held to
                the schema of its arguments. strict: hold calls to their schemas also where the model decides.
        """
        return self._run([self._tokenize_turn(messages, template, options)], **options)[0]

    def stream_chat(
        self, messages: Sequence[Message], *, template: dict[str, Any] | None = None, **options: Any
    ) -> TextStream[Generation]:
        """``chat`` in pieces; see ``stream``. It can also be read with ``async for``."""
        return self._stream(self._tokenize_turn(messages, template, options), **options)

    async def achat(
        self, messages: Sequence[Message], *, template: dict[str, Any] | None = None, **options: Any
    ) -> Generation:
        """``chat`` without blocking the event loop."""
        return (await self._arun([self._tokenize_turn(messages, template, options)], **options))[0]

    # --- tokens

    def tokenize(self, prompt: Input) -> TokenizedPrompt:
        """A prompt as tokens with their highlights; control tokens spelled in it stay plain text."""
        if isinstance(prompt, TokenizedPrompt):
            return prompt
        return tokenize(self.tokenizer, in_scope(prompt if isinstance(prompt, Prompt) else Prompt(prompt)))

    def tokenize_chat(self, messages: Sequence[Message], **template: Any) -> TokenizedPrompt:
        """A conversation as tokens, through the model's chat template; spans of every message are kept.

        Raises:
            TokenizationError: no chat template, or it refuses these messages.
            ProvenanceError: the template changes a message, so its highlights cannot be followed.
        """
        chat = render_chat(self.tokenizer, messages_in_scope(messages), **template)
        return tokenize(self.tokenizer, chat.prompt, trusted=chat.template, add_special_tokens=False)

    def _tokenize_turn(
        self, messages: Sequence[Message], template: dict[str, Any] | None, options: dict[str, Any]
    ) -> TokenizedPrompt:
        tools = options.get("tools") if options.get("tool_choice") != "none" else None
        return self.tokenize_chat(messages, **(template or {}), **({"tools": tools} if tools else {}))

    def _tokens(self, prompts: Sequence[Input], options: dict[str, Any]) -> list[TokenizedPrompt]:
        prefix: Prefix | None = options.get("prefix")
        return [self.tokenize(p if prefix is None else prefix.before(p)) for p in prompts]

    # --- how

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
        stop = [stop] if isinstance(stop, str) else [s for s in stop or () if s]
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
                report=report.of_row(i // times),
            )
            for i, ids in enumerate(sequences[:, length:].tolist())
        ]

    def _end_ids(self) -> set[int]:
        config: Any = getattr(self.hf_model, "generation_config", None)
        ids = getattr(config, "eos_token_id", None)
        ids = self.tokenizer.eos_token_id if ids is None else ids
        return set(ids) if isinstance(ids, list) else {ids}

    def _stream(self, prompt: TokenizedPrompt, **options: Any) -> TextStream[Generation]:
        return TextStream(lambda emit, cancel: self._run([prompt], pieces=emit, cancel=cancel, **options)[0])

    async def _arun(self, prompts: list[TokenizedPrompt], **options: Any) -> list[Generation]:
        cancel = threading.Event()
        try:
            return await asyncio.to_thread(self._run, prompts, cancel=cancel, **options)
        finally:
            cancel.set()


def _listed(prompt: Input | Sequence[Input]) -> tuple[bool, list[Input]]:
    single = isinstance(prompt, str | Prompt | TokenizedPrompt)
    return single, [prompt] if single else list(prompt)  # type: ignore[list-item, arg-type]


def _unwrapped(generations: list[Generation], single: bool) -> Generation | list[Generation]:
    return generations[0] if single and len(generations) == 1 else generations
