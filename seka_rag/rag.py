"""From a question to an answer that follows the retrieved evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from seka_rag.errors import SpanError
from seka_rag.hf.chat import Message
from seka_rag.highlight.base import Highlighter
from seka_rag.highlight.registry import as_highlighter
from seka_rag.highlight.select import NoPassages
from seka_rag.highlight.trust import choose_spans
from seka_rag.model.citations import Citation, cite, excerpts_of
from seka_rag.model.generation import Generation
from seka_rag.model.steered import SteeredModel
from seka_rag.model.stream import TextStream
from seka_rag.retrieval.retrievers import as_retriever
from seka_rag.text.passages import TEMPLATE, Passage
from seka_rag.text.prompt import Prompt
from seka_rag.text.spans import Span, shift

NOTHING_FOUND = "(no passage was found)"


@dataclass(frozen=True)
class Question:
    """A question with its retrieved passages, laid out for the model.

    Attributes:
        passages: what the retriever found.
        prompt: the user's message, with the highlights that the highlighter chose.
        messages: the conversation to answer: the instruction, if there is one, and the user's message.
        warnings: why the answer may not follow the evidence.
        places: where each passage stands in the prompt.
    """

    text: str
    passages: tuple[Passage, ...]
    prompt: Prompt
    messages: tuple[Message, ...]
    warnings: tuple[str, ...] = ()
    places: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Answer:
    """An answer, the evidence it was given, and how it was generated."""

    text: str
    question: Question = field(repr=False)
    generation: Generation = field(repr=False)

    @property
    def passages(self) -> tuple[Passage, ...]:
        return self.question.passages

    @property
    def prompt(self) -> Prompt:
        return self.question.prompt


class Rag:
    """Retrieve, highlight, answer.

    Args:
        model: answers; with a bank it is steered towards the highlights.
        retriever: a callable question -> passages, or a retriever of LangChain or LlamaIndex.
        highlighter: "sentences" (those that share the question's words), "top_k", "all", "off", or a callable.
        template: the user's message, with the fields ``{context}`` and ``{question}``.
        instruction: the system message, if any.
        highlight_instruction: highlight the instruction as well.
        separator: between passages.

    Raises:
        DocumentError: not a retriever.
        SpanError: an unknown highlighter, or a template without its fields.
    """

    def __init__(
        self,
        model: SteeredModel,
        retriever: object,
        *,
        highlighter: str | Highlighter = "sentences",
        template: str = TEMPLATE,
        instruction: str | None = None,
        highlight_instruction: bool = False,
        separator: str = "\n\n",
    ) -> None:
        self.model, self.retriever, self.highlighter = model, as_retriever(retriever), as_highlighter(highlighter)
        for name in ("{context}", "{question}"):
            if name not in template:
                raise SpanError(f"the template lacks {name}")
        if highlight_instruction and not instruction:
            raise SpanError("highlight_instruction=True, but there is no instruction")
        self.template, self.separator = template, separator
        self.instruction, self.highlight_instruction = instruction, highlight_instruction

    def prepare(self, question: str) -> Question:
        """Retrieve passages, choose highlights and lay out the prompt; spans are moved once, by counting characters."""
        passages = tuple(self.retriever(question))
        spans, warnings, _ = choose_spans(self.highlighter, question, passages)
        marked = [Prompt(p.text, own) for p, own in zip(passages, spans, strict=True)]
        context = Prompt.join(marked, self.separator) if marked else Prompt(NOTHING_FOUND)
        prompt = Prompt.format(self.template, {"context": context, "question": question})
        whole = Prompt.join([Prompt(p.text).mark(0, len(p.text), source=p.source) for p in passages], self.separator)
        places = Prompt.format(self.template, {"context": whole, "question": question}).spans
        messages: list[Message] = [{"role": "user", "content": prompt}]
        if self.instruction:
            text = Prompt(self.instruction)
            if self.highlight_instruction:
                text = text.mark(0, len(text), source="instruction")
            messages.insert(0, {"role": "system", "content": text})
        why = (*warnings, *self._warnings(passages, prompt))
        return Question(question, passages, prompt, tuple(messages), why, places)

    def _warnings(self, passages: Sequence[Passage], prompt: Prompt) -> tuple[str, ...]:
        if not passages:
            return ("the retriever found no passage: the answer comes from memory",)
        if not isinstance(self.highlighter, NoPassages) and not prompt.spans:
            return ("the highlighter chose nothing in the retrieved passages",)
        return ()

    def answer(self, question: str | Question, **options: Any) -> Answer:
        """Answer a question. Options are those of ``SteeredModel.generate`` (``steering=None`` runs the plain model)."""
        prepared = self.prepare(question) if isinstance(question, str) else question
        if self.model.tokenizer.chat_template:
            generation = self.model.chat(prepared.messages, **options)
        else:
            generation = self.model.generate(_as_text(prepared), **options)
        if prepared.warnings:
            report = replace(generation.report, warnings=[*generation.report.warnings, *prepared.warnings])
            generation = replace(generation, report=report)
        return Answer(generation.text.strip(), prepared, generation)

    def cite(self, answer: Answer) -> tuple[Citation, ...]:
        """Which passages each sentence of an answer rests on, the best first; costs one pass over prompt and answer.

        ``answer.passages[c.passage].text[c.start : c.end]`` is the sentence that the model looked at most.
        """
        question = answer.question
        chat = bool(self.model.tokenizer.chat_template)
        prompt = question.messages if chat else _as_text(question)
        message, before = (len(question.messages) - 1, 0) if chat else (0, len(prompt) - len(question.prompt))
        excerpts = [
            excerpt
            for i, (passage, place) in enumerate(zip(question.passages, question.places, strict=True))
            for excerpt in excerpts_of(i, passage.text, message, partial(_moved, place.start + before))
        ]
        return cite(self.model, prompt, answer.text, excerpts)

    def stream(self, question: str | Question, **options: Any) -> TextStream[Generation]:
        """The answer in pieces; ``.result`` is the Generation. Warnings of the question are in ``prepare(...).warnings``."""
        prepared = self.prepare(question) if isinstance(question, str) else question
        if self.model.tokenizer.chat_template:
            return self.model.stream_chat(prepared.messages, **options)
        return self.model.stream(_as_text(prepared), **options)


def answer(question: str, *, model: SteeredModel, retriever: object, **settings: Any) -> Answer:
    """Answer one question over any retriever; settings as for ``Rag``."""
    return Rag(model, retriever, **settings).answer(question)


def _as_text(question: Question) -> Prompt:
    """The conversation for a model without a chat template."""
    return Prompt.join([m["content"] for m in question.messages], "\n\n")


def _moved(by: int, span: Span) -> tuple[Span, ...]:
    return shift([span], by)
