"""SteeredModel: a language model that follows what is highlighted in its prompt."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any, overload

from seka_rag.bank import ExpertBank, ProjectionBank
from seka_rag.hf.chat import Message, render_chat
from seka_rag.hf.forms import knows_tools
from seka_rag.hf.loading import load_model
from seka_rag.hf.tokens import TokenizedPrompt, tokenize
from seka_rag.model.decoder import Decoder, Steering
from seka_rag.model.generation import Generation
from seka_rag.model.prefix import Prefix
from seka_rag.model.scope import in_scope, messages_in_scope
from seka_rag.model.stream import TextStream
from seka_rag.steering.base import KeySteering
from seka_rag.text.prompt import Prompt

Input = Prompt | str | TokenizedPrompt


class SteeredModel(Decoder):
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
        tokens = await asyncio.to_thread(self._tokens, prompts, options)
        return _unwrapped(await self._arun(tokens, **options), single)

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
        tokens = await asyncio.to_thread(self._tokenize_turn, messages, template, options)
        return (await self._arun([tokens], **options))[0]

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
