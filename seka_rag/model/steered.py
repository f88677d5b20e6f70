"""SteeredModel: a language model that follows what is highlighted in its prompt."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

from torch import nn

from seka_rag.bank import Bank, load_bank
from seka_rag.hf.chat import Message, render_chat
from seka_rag.hf.forms import knows_tools
from seka_rag.hf.identity import identify
from seka_rag.hf.loading import load_model
from seka_rag.hf.tokens import TokenizedPrompt, tokenize
from seka_rag.hf.types import Tokenizer
from seka_rag.model.auto_bank import automatic_bank
from seka_rag.model.call import Call, Steering, check_one_answer, check_streamed
from seka_rag.model.decoder import Decoder
from seka_rag.model.generation import Generation
from seka_rag.model.prefix import Prefix
from seka_rag.model.scope import in_scope, messages_in_scope
from seka_rag.model.stream import TextStream
from seka_rag.steering.base import SteeringMethod
from seka_rag.text.plain import ReadOnlyJson
from seka_rag.text.prompt import Prompt

logger = logging.getLogger(__name__)
Input = Prompt | str | TokenizedPrompt


class SteeredModel:
    """A transformers model, its tokenizer and, for steering, a bank.

    Safe to use from several threads: steering belongs to one call. The model itself is never changed.

    Args:
        hf_model: a causal language model of transformers.
        tokenizer: its fast tokenizer.
        bank: a ProjectionBank or ExpertBank, the folder of one, or its name on the Hub. Without it the model runs unsteered
            and refuses highlights.
        steering: the method used when a call names none; by default the one that the bank suggests.
        name: for reports and metadata.

    Raises:
        BankError: the bank belongs to another model.
    """

    def __init__(
        self,
        hf_model: nn.Module,
        tokenizer: Tokenizer,
        *,
        bank: Bank | str | os.PathLike[str] | None = None,
        steering: SteeringMethod | None = None,
        name: str | None = None,
    ) -> None:
        loaded = load_bank(bank) if isinstance(bank, str | os.PathLike) else bank
        if loaded is not None:
            loaded.model.check(identify(hf_model))
        name = name or getattr(hf_model.config, "_name_or_path", "") or type(hf_model).__name__
        self._decoder = Decoder(hf_model, tokenizer, loaded, steering, name)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        bank: Bank | str | os.PathLike[str] | None = "auto",
        steering: SteeringMethod | None = None,
        **options: Any,
    ) -> SteeredModel:
        """Load a model from the Hub, a folder, a GGUF file, or by the name ``smollm2`` or ``seka-demo``.

        Args:
            bank: "auto" (default) takes the bank that ships with the model, else the one in the cache, else learns one
                (a minute for a small model) and caches it. None runs the model unsteered.
            options: ``device``, such as "cuda"; the rest is passed to transformers (``dtype``, ``device_map``,
                ``revision``, ...).

        Raises:
            SettingError: there is no such device here.
            ModelNotFoundError: neither here nor on the Hub.
            ModelFileError: a file of the model is damaged, or of a form that cannot be read.
            BankError: the bank belongs to another model.
            UnsupportedModelError, LearningError, TokenizationError: "auto", and no bank can be learned for this model.
        """
        loaded = load_model(name, **options)
        if bank is None:
            logger.warning("%s runs unsteered: it has no bank, and a prompt with highlights is an error", name)
        chosen = automatic_bank(loaded) if isinstance(bank, str) and bank == "auto" else bank
        return cls(loaded.hf_model, loaded.tokenizer, bank=chosen, steering=steering, name=name)

    def __repr__(self) -> str:
        return f"SteeredModel({self.name!r}, bank={self.bank!r})"

    @property
    def hf_model(self) -> nn.Module:
        """The transformers model."""
        return self._decoder.hf_model

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return self._decoder.tokenizer

    @property
    def bank(self) -> Bank | None:
        """What it is steered with."""
        return self._decoder.bank

    @property
    def steering(self) -> SteeringMethod | None:
        """The method used when a call names none, if one was given."""
        return self._decoder.steering

    @property
    def usual_steering(self) -> SteeringMethod | None:
        """How ``steering="auto"`` steers: by ``steering``, else by the method that the bank suggests."""
        return self._decoder.usual_steering

    @property
    def name(self) -> str:
        """Its name, for reports and metadata."""
        return self._decoder.name

    @property
    def context_length(self) -> int | None:
        """Most tokens of prompt and answer together, or None if the model does not say."""
        return self._decoder.context_length

    @property
    def can_chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)

    @property
    def can_call_tools(self) -> bool:
        """Whether the chat template writes tool calls in a form that is known here."""
        return knows_tools(self.tokenizer)

    # --- prompts

    @overload
    def generate(self, prompt: Input, **options: object) -> Generation: ...  # type: ignore[overload-overlap]  # str is both
    @overload
    def generate(self, prompt: Sequence[Input], **options: object) -> list[Generation]: ...
    def generate(self, prompt: Input | Sequence[Input], **options: object) -> Generation | list[Generation]:
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
        call, (single, prompts) = self._call(options), _listed(prompt)
        return _unwrapped(self._run(self._with_prompts(call, prompts)), single)

    def prefill(self, prompt: Input, *, steering: Steering = "auto") -> Prefix:
        """Compute the beginning that several prompts share (a system prompt, passages) once, highlights included.

        ``generate(question, prefix=model.prefill(passages))`` gives what ``generate(passages + question)`` gives. The
        prefix never changes and may be used from several threads; it holds the cache of its tokens.

        Raises:
            SteeringError: as in ``generate``; or highlights in the prefix and a method that needs to know what follows it.
        """
        tokens = self._decoder.fit(self.tokenize(prompt), 0, "error")
        text = None if isinstance(prompt, TokenizedPrompt) else Prompt("") + prompt
        method = self._decoder.method(steering, any(w > 0 for w in tokens.weights), prefix=True)
        return Prefix.compute(self.hf_model, self.bank, method, tokens, text)

    def stream(self, prompt: Input, **options: object) -> TextStream[Generation]:
        """The answer in pieces as it is generated. Options as in ``generate``.

        Leaving the loop early, or ``close()``, ends the generation. After the last piece, ``.result`` is the Generation.
        """
        return self._stream(self._with_prompts(self._call(options), [prompt]))

    async def agenerate(self, prompt: Input | Sequence[Input], **options: object) -> Generation | list[Generation]:
        """``generate`` without blocking the event loop; cancelling the task ends the generation."""
        call, (single, prompts) = self._call(options), _listed(prompt)
        call = await asyncio.to_thread(self._with_prompts, call, prompts)
        return _unwrapped(await self._arun(call), single)

    def astream(self, prompt: Input, **options: object) -> AsyncIterator[str]:
        """``stream`` for ``async for``."""
        return self.stream(prompt, **options).__aiter__()

    # --- conversations

    def chat(
        self, messages: Sequence[Message], *, template: ReadOnlyJson | None = None, **options: object
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
        return self._run(self._with_messages(self._call(options), messages, template))[0]

    def stream_chat(
        self, messages: Sequence[Message], *, template: ReadOnlyJson | None = None, **options: object
    ) -> TextStream[Generation]:
        """``chat`` in pieces; see ``stream``. It can also be read with ``async for``."""
        return self._stream(self._with_messages(self._call(options), messages, template))

    async def achat(
        self, messages: Sequence[Message], *, template: ReadOnlyJson | None = None, **options: object
    ) -> Generation:
        """``chat`` without blocking the event loop."""
        call = await asyncio.to_thread(self._with_messages, self._call(options), messages, template)
        return (await self._arun(call))[0]

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
        return render_chat(self.tokenizer, messages_in_scope(messages), **template).tokenize(self.tokenizer)

    # --- calls

    def _call(self, options: Mapping[str, object]) -> Call:
        return Call.of(options, self.hf_model)

    def _with_prompts(self, call: Call, prompts: Sequence[Input]) -> Call:
        whole = prompts if call.prefix is None else [call.prefix.before(p) for p in prompts]
        return replace(call, prompts=[self.tokenize(p) for p in whole])

    def _with_messages(self, call: Call, messages: Sequence[Message], template: ReadOnlyJson | None) -> Call:
        check_one_answer(call.generation)
        tools = {"tools": call.tools} if call.tools and call.tool_choice != "none" else {}
        return replace(call, prompts=[self.tokenize_chat(messages, **(template or {}), **tools)])

    def _run(self, call: Call) -> list[Generation]:
        return self._decoder.run(call)

    def _stream(self, call: Call) -> TextStream[Generation]:
        check_streamed(call)
        return TextStream(lambda emit, cancel: self._run(replace(call, pieces=emit, cancel=cancel))[0])

    async def _arun(self, call: Call) -> list[Generation]:
        cancel = threading.Event()
        try:
            return await asyncio.to_thread(self._run, replace(call, cancel=cancel))
        finally:
            cancel.set()


def _listed(prompt: Input | Sequence[Input]) -> tuple[bool, list[Input]]:
    single = isinstance(prompt, str | Prompt | TokenizedPrompt)
    return single, [prompt] if single else list(prompt)  # type: ignore[list-item, arg-type]  # `single` says which it is


def _unwrapped(generations: list[Generation], single: bool) -> Generation | list[Generation]:
    return generations[0] if single and len(generations) == 1 else generations
