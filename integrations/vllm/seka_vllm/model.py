"""VllmModel: many prompts at once in this process, each with its own highlights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, overload

from seka_rag.errors import SettingError
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.model.generation import Generation
from seka_rag.steering.base import SteeringMethod
from seka_vllm.profiles import load_profiles
from seka_vllm.served import Input, Served
from seka_vllm.settings import KEY, EngineSettings, bank_settings, model_folder


class VllmModel:
    """A language model run by vLLM that follows what is highlighted in its prompts.

    Args:
        name: a folder, a name on the Hub, or ``smollm2``.
        bank: the folder of a bank or its name on the Hub; "auto" (default) for the one that ships with the model; None runs it
            unsteered.
        steering: the method; by default the one that the bank suggests. A call may give it another strength.
        engine: options of ``vllm.LLM``, such as ``dtype``, ``max_model_len``, ``tensor_parallel_size``.

    Raises:
        SettingError: "auto", and no bank ships with the model; settings that cannot be; or vLLM is not installed.
        SekaError: the model cannot be steered with this bank, or a trial request was not steered.
    """

    def __init__(
        self,
        name: str,
        *,
        bank: str | os.PathLike[str] | None = "auto",
        steering: SteeringMethod | None = None,
        **engine: Any,
    ) -> None:
        try:
            from vllm import LLM
        except ImportError as error:
            raise SettingError(
                "VllmModel needs vLLM 0.32, which is not installed; it wants an environment of its own (docs/how-to/vllm.md)"
            ) from error
        from transformers import AutoTokenizer

        path, additional = model_folder(name), dict(engine.pop("additional_config", None) or {})
        settings = None
        if bank is not None:
            additional[KEY] = bank_settings(name, bank, None if steering is None else steering.as_dict())
            settings = EngineSettings.model_validate(additional[KEY])
        banks = {} if settings is None else load_profiles(settings)
        self.llm = LLM(path, additional_config=additional, **engine)
        config = self.llm.llm_engine.model_config
        self.served = Served.of(name, config, AutoTokenizer.from_pretrained(path), banks)

    def __repr__(self) -> str:
        return f"VllmModel({self.served.name!r}, banks={list(self.served.banks)})"

    @overload
    def generate(self, prompt: Input, **options: Any) -> Generation: ...
    @overload
    def generate(self, prompt: Sequence[Input], **options: Any) -> list[Generation]: ...
    def generate(self, prompt: Input | Sequence[Input], **options: Any) -> Generation | list[Generation]:
        """Continue a prompt, or many: vLLM batches them as it goes.

        Args:
            prompt: plain text, a Prompt with highlights, or the result of ``tokenize``.
            steering: "auto" (default) steers with the engine's method if anything is highlighted; the same method with another
                strength; None for the plain model.
            max_new_tokens: most tokens of an answer (default 256).
            stop: strings that end the answer; they are not part of it.
            temperature, top_p, top_k, min_p, repetition_penalty, seed: of vLLM. Without one of the first four it is greedy.

        Returns:
            One Generation for one prompt, a list for a list.

        Raises:
            ContextLengthError: a prompt does not fit.
            SettingError: an unknown option, or a method that is not the engine's.
            SteeringError: highlights without a bank, or steering that did not take place.
        """
        single = isinstance(prompt, str) or not isinstance(prompt, Sequence)
        prompts: Sequence[Any] = [prompt] if single else prompt  # type: ignore[assignment]  # `single` says which it is
        answers = self._run([self.served.tokenize(p) for p in prompts], options)
        return answers[0] if single else answers

    def chat(
        self,
        conversations: Sequence[Mapping[str, object]] | Sequence[Sequence[Mapping[str, object]]],
        **options: object,
    ) -> Generation | list[Generation]:
        """Answer a conversation, or many, through the model's chat template.

        Args:
            conversations: messages ``{"role": ..., "content": str or Prompt}``, or a list of such lists.
            options: as in ``generate``.
        """
        single = bool(conversations) and isinstance(conversations[0], Mapping)
        several: Sequence[Any] = [conversations] if single else conversations
        answers = self._run([self.served.tokenize_chat(messages) for messages in several], options)
        return answers[0] if single else answers

    def _run(self, prompts: Sequence[TokenizedPrompt], options: Mapping[str, object]) -> list[Generation]:
        params = [self.served.params(tokens, options) for tokens in prompts]  # all are checked before any runs
        given = [{"prompt_token_ids": tokens.ids} for tokens in prompts]
        self._route(given, params)
        outputs = self.llm.generate(given, params, use_tqdm=False) if given else []
        return [
            self.served.answers(tokens, options, output)[0] for tokens, output in zip(prompts, outputs, strict=True)
        ]

    def _route(self, given: Sequence[Any], params: Sequence[Any]) -> None:
        """Ask for the weights of experts, for prompts that need them."""
        probes = [
            (prompt, of, probe) for prompt, of in zip(given, params, strict=True) if (probe := self.served.probe(of))
        ]
        if probes:
            asked = self.llm.generate([prompt for prompt, *_ in probes], [p for *_, p in probes], use_tqdm=False)
            for (_, of, _), output in zip(probes, asked, strict=True):
                self.served.route(of, output)

    def close(self) -> None:
        """End the engine and free its memory."""
        self.llm.llm_engine.engine_core.shutdown()

    def __enter__(self) -> VllmModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
