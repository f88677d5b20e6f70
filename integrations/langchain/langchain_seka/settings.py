"""What the chat model and the completion model share beside the fields of all models: what LangChain asks of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from langchain_core.language_models.base import LangSmithParams
from langchain_core.load.serializable import Serializable

from langchain_seka.capture import CAPTURE, Evidence, FilledPrompt, Message, install
from langchain_seka.handler import Origin
from seka_rag import Generation, RemoteModel
from seka_rag.frameworks import (
    KEY,
    Citable,
    Cited,
    Highlights,
    HighlightSettings,
    ModelSettings,
    Request,
    bank_name,
    highlights_off,
    report_of,
)

#: Call options that say nothing to the engine.
_OURS = ("stream", "seka_highlights")
#: Fields that can change an answer, as they are.
_PLAIN = (
    "model",
    "base_url",
    "highlight",
    "highlight_tools",
    "on_unmarked",
    "citations",
    "temperature",
    "max_tokens",
    "seed",
)

Find = Callable[[Evidence | None, HighlightSettings, Sequence[FilledPrompt]], Highlights]


class SekaSettings(ModelSettings, Serializable):
    """The fields of both models."""

    remote_model: ClassVar[Callable[..., Any]] = RemoteModel

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        install()

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """A model in memory cannot be rebuilt from JSON."""
        return False

    def get_token_ids(self, text: str) -> list[int]:
        """The text in the model's own tokens; ``get_num_tokens`` counts these."""
        return list(self.engine.tokenize(text).ids)

    @property
    def _identifying_params(self) -> dict[str, object]:
        """Everything that can change an answer; also the key of LangChain's cache."""
        given = self.steered_model
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "bank": bank_name(self.bank if given is None else given.bank),
            "steering": repr(given.steering if given is not None and self.steering == "auto" else self.steering),
            "highlighter": self.highlighter if isinstance(self.highlighter, str) else repr(self.highlighter),
            "stop_sequences": self.stop,
            "chat_template_kwargs": self.chat_template_kwargs,
            "generate_kwargs": {key: repr(value) for key, value in self.generate_kwargs.items()},
            "model_kwargs": {key: repr(value) for key, value in self.model_kwargs.items()},
        }

    def _tracing_params(self, params: LangSmithParams, stop: list[str] | None) -> LangSmithParams:
        params["ls_provider"] = "seka"
        if stop or self.stop:
            params["ls_stop"] = stop or self.stop
        return params

    def _found(
        self,
        messages: Sequence[Message],
        origin: Origin,
        call: Mapping[str, object],
        find: Find,
        cite: Callable[[Evidence | None], Citable],
    ) -> Highlights:
        """The highlights of a call: what ``find`` makes of what was retrieved for it and the prompts that made it.

        Args:
            cite: which documents stand in it, where the answer is to cite them.
        """
        parent, handler = origin
        settings = self.highlight_settings(call, handler.settings if handler else {})
        marks = settings.kinds is not None
        if not marks and not settings.citations:
            return highlights_off()
        evidence: Evidence | None = None
        prompts: Sequence[FilledPrompt] = ()
        for capture in (handler, CAPTURE):  # a handler below the top level has seen a part of the runs only
            if capture is not None and evidence is None:
                evidence = capture.evidence(parent, messages)
                prompts = evidence.prompts if evidence else prompts or capture.prompts(parent, messages)
        highlights = settings.settle(find(evidence, settings, prompts)) if marks else highlights_off()
        return highlights.citing(cite(evidence), settings.citations) if settings.citations else highlights

    def _generate_options(self, stop: list[str] | None, call: Mapping[str, object]) -> dict[str, object]:
        return self.call_options({**{k: v for k, v in call.items() if k not in _OURS}, "stop": stop})

    def _metadata(self, generation: Generation, request: Request, cited: Sequence[Cited] = ()) -> dict[str, object]:
        return {
            "model_name": request.engine.name,
            "model_provider": "seka",
            "finish_reason": generation.finish_reason,
            KEY: report_of(generation, request.highlights, cited),
        }
