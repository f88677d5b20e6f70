"""A prompt template that highlights what goes into it, known from the template itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.prompt_values import ChatPromptValue
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from pydantic import ConfigDict, model_validator
from typing_extensions import Self

from langchain_seka.capture import filling_by_hand
from langchain_seka.marks import mark_message
from langchain_seka.messages import text_of
from langchain_seka.templates import Filled, settled
from seka_rag import Prompt, SekaError
from seka_rag.frameworks import NOTHING_CHOSEN, Marks, as_passage, choose_spans, chooser, trimmed


class HighlightPrompt(RunnableSerializable[dict, ChatPromptValue]):
    """Wraps a prompt template; what is given for ``variables`` is highlighted in the messages it makes, and nothing else.

    Needed where the automatic way cannot follow: no retriever in the chain, a template class of your own, or other
    text than passages, such as an instruction. A variable may be

    * a str, highlighted whole;
    * a ``seka_rag.Prompt``, highlighted where it has spans;
    * a list of documents, joined by ``separator``; ``highlighter`` chooses in them for the variable ``question``.

    Example:
        .. code-block:: python

            prompt = HighlightPrompt(prompt=template, variables=["context"])
            inputs = {"context": retriever, "question": RunnablePassthrough()}
            chain = inputs | prompt | ChatSeka(model="seka-demo")
    """

    prompt: BasePromptTemplate
    variables: Sequence[str] = ("context",)
    highlighter: Any = "sentences"
    question: str = "question"
    separator: str = "\n\n"

    model_config = ConfigDict(arbitrary_types_allowed=True)

    @model_validator(mode="after")
    def _variables_of_prompt(self) -> Self:
        known = {*self.prompt.input_variables, *self.prompt.optional_variables}
        if missing := [name for name in self.variables if name not in known]:
            raise ValueError(f"the template has no variables {missing}: it has {sorted(known)}")
        return self

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """It may hold a function."""
        return False

    def invoke(self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: object) -> ChatPromptValue:
        """Fill the template.

        Raises:
            SekaError: a variable is missing, or the template changes what it is given (escapes, upper case).
        """
        missing = [name for name in self.variables if not isinstance(input, Mapping) or name not in input]
        if missing:
            raise SekaError(f"HighlightPrompt needs a dict with {missing}: got {type(input).__name__}")
        chosen = {name: self._chosen(name, input[name], input) for name in self.variables}
        texts = {name: text for name, (text, _) in chosen.items()}
        inputs, template = {**input, **texts}, settled(self.prompt)
        with filling_by_hand():
            messages = template.invoke(inputs, config, **kwargs).to_messages()
        rendered = Filled(template, inputs, texts).messages(list(self.variables))
        if rendered is None or [r.text for r in rendered] != [text_of(m) for m in messages]:
            raise SekaError(
                f"the template does not bring {sorted(texts)} in unchanged, so highlights cannot be followed into it"
            )
        warnings = [warning for _, marks in chosen.values() for warning in marks.warnings]
        unmarked = next((marks.unmarked for _, marks in chosen.values() if marks.unmarked is not None), None)
        for i, r in enumerate(rendered):
            if r.placements:  # marks, be they none: nobody else is to choose in it
                spans = [span for p in r.placements for span in p.place(chosen[p.name][1].spans)]
                messages[i] = mark_message(messages[i], spans, warnings=warnings, unmarked=unmarked)
                warnings, unmarked = [], None  # said once
        return ChatPromptValue(messages=messages)

    def _chosen(self, name: str, value: object, inputs: Mapping[str, object]) -> tuple[str, Marks]:
        """The text of a variable, and what is highlighted in it."""
        if isinstance(value, Prompt):
            return value.text, Marks(value.spans)
        if isinstance(value, str):
            return value, Marks(trimmed(value))
        if not isinstance(value, list | tuple):
            raise SekaError(f"a highlighted variable is a str, Prompt or list of documents, not {type(value).__name__}")
        passages = [as_passage(item) for item in value]
        question = str(inputs.get(self.question, ""))
        chosen = choose_spans(chooser(self.highlighter), question, passages)
        joined = Prompt.join([Prompt(p.text, s) for p, s in zip(passages, chosen.spans, strict=True)], self.separator)
        if not joined.text.strip():
            return joined.text, Marks(warnings=(f"{name}: no document was given, or none with text",))
        return joined.text, Marks(joined.spans, chosen.warnings, None if joined.spans else NOTHING_CHOSEN)
