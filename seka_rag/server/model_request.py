"""One request to the model, checked: a prompt with its highlights, options, and the form of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seka_rag.errors import (
    BankError,
    ContextLengthError,
    LimitError,
    ProvenanceError,
    SettingError,
    TokenizationError,
    UnsupportedModelError,
)
from seka_rag.hf.template_options import check_template_options
from seka_rag.hf.tokens import TokenizedPrompt
from seka_rag.model.steered import SteeredModel
from seka_rag.server.errors import at_field
from seka_rag.server.settings import ServerSettings
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span


@dataclass(frozen=True)
class ModelRequest:
    """One request, checked.

    Attributes:
        prompt: a conversation, or a text to continue.
        prompt_field: which field of the body holds the prompt.
        form_field: which field of the body asks for a form of the answer.
        options: as ``SteeredModel.generate`` takes them.
        template: options of the chat template.
        choices: how many answers.
        top: how many of the likeliest tokens to tell with log-probabilities; None for no log-probabilities.
        one_call: at most one tool call is wanted.
        first_message: the number of the first message to the client, which does not count what was put before.
        stream, with_usage: how to answer.
    """

    prompt: Prompt | list[dict[str, Any]]
    prompt_field: str
    form_field: str = "response_format"
    options: Mapping[str, object] = field(default_factory=dict)
    template: Mapping[str, Any] = field(default_factory=dict)
    choices: int = 1
    top: int | None = None
    one_call: bool = False
    first_message: int = 0
    stream: bool = False
    with_usage: bool = False

    @property
    def spans(self) -> list[tuple[int, Span]]:
        """The highlights, each with the number of its message."""
        prompts = enumerate(self.prompts, self.first_message)
        return [(i, span) for i, prompt in prompts for span in prompt.spans]

    @property
    def prompts(self) -> list[Prompt]:
        """The texts of the messages, or the one prompt."""
        return [self.prompt] if isinstance(self.prompt, Prompt) else [message["content"] for message in self.prompt]

    def highlights(self) -> list[dict[str, object]]:
        """Where the highlights are, without any text."""
        return [
            {"message": i, "start": s.start, "end": s.end, "weight": s.weight, "source": s.source}
            for i, s in self.spans
        ]

    def field_of(self, error: Exception) -> str | None:
        """Which field of the body an error of the model is about, where its kind says so."""
        if isinstance(error, BankError):
            return "seka.steering"
        if isinstance(error, ContextLengthError | ProvenanceError):
            return self.prompt_field
        if isinstance(error, SettingError | UnsupportedModelError | TokenizationError):  # of a grammar
            return self.form_field if "json_schema" in self.options else "tools" if "tools" in self.options else None
        return None

    def tokens(self, model: SteeredModel, settings: ServerSettings) -> TokenizedPrompt:
        """The prompt as tokens.

        Raises:
            LimitError: more than the server takes.
        """
        self.check_template(model)
        with at_field(self.prompt_field):
            if isinstance(self.prompt, Prompt):
                tokens = model.tokenize(self.prompt)
            else:
                tools = self.options.get("tools") if self.options.get("tool_choice") != "none" else None
                tokens = model.tokenize_chat(self.prompt, **self.template, **({"tools": tools} if tools else {}))
            return self.checked(tokens, settings)

    def check_template(self, model: SteeredModel) -> None:
        """Raise if the template has no such options."""
        with at_field("chat_template_kwargs"):
            check_template_options(model.tokenizer, self.template)

    def checked(self, tokens: TokenizedPrompt, settings: ServerSettings) -> TokenizedPrompt:
        """The tokens of the prompt, if the server takes so many.

        Raises:
            LimitError: it does not.
        """
        limit = settings.max_prompt_tokens
        with at_field(self.prompt_field):
            if limit is not None and len(tokens) > limit:
                raise LimitError(f"the prompt has {len(tokens)} tokens; this server takes {limit}")
        return tokens
