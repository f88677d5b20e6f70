"""Where a template put the retrieved context, and which characters of the result to highlight.

Every answer of a query engine passes the points where a template is filled, with template and values at hand. The
template is rendered a second time with nonces for the context (``locate_values``), so a document that copies a
sentence of the template, or of another document, cannot move a highlight.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TypeGuard

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import BasePromptTemplate, RichPromptTemplate
from llama_index.llms.seka.citations import nodes_in
from llama_index.llms.seka.context import choose, context_passages, is_answer
from llama_index.llms.seka.flow import current_flow
from llama_index.llms.seka.instructions import RETRIEVED, SYSTEM_ROLES, last_of_user
from llama_index.llms.seka.marks import Announced, mark_message
from llama_index.llms.seka.postprocessor import HighlightPostprocessor, chosen_in

from seka_rag import Prompt, SekaError, Span
from seka_rag.frameworks import (
    KEY,
    NOTHING_CHOSEN,
    QUESTION,
    QUESTION_VARIABLES,
    Citable,
    Highlighter,
    HighlightSettings,
    Marks,
    Placement,
    locate_values,
    own_words,
    said,
    shift,
)

_METADATA = (
    'all of this text looks like a node\'s metadata ("file_path: notes.txt"), which is never highlighted: let a retriever of '
    "LlamaIndex return it as a node's text"
)
_ANSWERS = "this is what the model answered before, and an answer is no evidence: nothing in it is highlighted"


@dataclass(frozen=True)
class Filling:
    """The values that a template is filled with, and what to highlight in them.

    Attributes:
        texts: values to find in the rendered text, by variable.
        chosen: highlights in them, in characters of the value.
        instructions: whether the template's own words are highlighted, too.
        exact: whether nothing else in the messages is a highlight, such as the user's message as a whole.
        unmarked: why nothing is chosen in the retrieved text that is there.
        citable: what may be cited in them, where the answer is to cite.
    """

    texts: Mapping[str, str]
    chosen: Mapping[str, tuple[Span, ...]]
    instructions: bool = False
    exact: bool = False
    warnings: tuple[str, ...] = ()
    unmarked: str | None = None
    citable: Mapping[str, Citable] = field(default_factory=dict)

    def spans(self, placements: Sequence[Placement]) -> list[Span]:
        """The highlights in the values, in characters of the rendered text."""
        return [span for p in placements for span in p.place(self.chosen.get(p.name, ()))]

    def cited(self, placements: Sequence[Placement]) -> Citable:
        """What may be cited, in characters of the rendered text."""
        there = (self.citable[p.name].placed(p) for p in placements if p.name in self.citable)
        return reduce(Citable.join, there, Citable())


def as_text(template: BasePromptTemplate, values: Mapping[str, object], variables: Sequence[str]) -> dict[str, object]:
    """The values with lists of texts joined, where the template would render a list as Python writes it.

    ``simple_summarize`` passes its context so, and the model would read ``['Ada lives in Lyon.\\nShe ...']``.
    Jinja templates can do something better with a list and are left alone.
    """
    if isinstance(template, RichPromptTemplate):
        return dict(values)
    return {k: "\n\n".join(v) if k in variables and _is_texts(v) else v for k, v in values.items()}


def read_filling(
    template: BasePromptTemplate,
    values: Mapping[str, object],
    variables: Sequence[str],
    settings: HighlightSettings,
    postprocessor: HighlightPostprocessor | None = None,
) -> Filling | None:
    """What to highlight in the values of a template, or None if nothing in it may be.

    Args:
        values: as they were given, before ``as_text``.
        postprocessor: chose in the nodes, and so chooses in the context.
    """
    given = {**template.kwargs, **values}
    joined = {**template.kwargs, **as_text(template, values, variables)}
    question_name = next((name for name in QUESTION_VARIABLES if given.get(name)), None)
    question = str(given[question_name]) if question_name else ""
    texts: dict[str, str] = {}
    chosen: dict[str, tuple[Span, ...]] = {}
    warnings = list[str]()
    instructions, exact = settings.has("instructions"), settings.has("instructions") or settings.has("question")
    if exact:
        texts.update({name: value for name, value in joined.items() if isinstance(value, str) and value.strip()})
    if settings.has("question") and question_name in texts:
        retrieved = current_flow().holds(question)
        chosen[question_name] = () if retrieved else said(question, QUESTION)
        warnings += [f"{question_name}: {RETRIEVED}"] if retrieved else []
    if instructions and (unknown := _not_located(template, joined)):
        warnings.append(f"{', '.join(unknown)}: not a text whose place is known, so no instruction is highlighted")
        instructions = False
    # messages without variables, as a structured LLM has them
    if instructions and not joined and current_flow().holds(template.get_template()):
        warnings.append(RETRIEVED)
        instructions = False
    reasons = []
    for name in (v for v in variables if given.get(v)) if settings.has("context") else ():
        text = joined[name]
        if not isinstance(text, str):
            reasons.append(f"{name} is a {type(given[name]).__name__}, not a text: fill the template with a text")
            continue
        known = chosen_in(question, text, settings.highlighter, postprocessor)
        marks = known or _chosen_in_text(question, name, text, settings.highlighter, by_line=_is_texts(given[name]))
        chosen[name] = marks.spans
        warnings += [f"{name}: {warning}" if known else warning for warning in marks.warnings]
        reasons += [f"{name}: {marks.unmarked}"] if marks.unmarked else []
        if marks.spans:
            texts[name] = text
    citable: dict[str, Citable] = {}
    for name in (v for v in variables if isinstance(joined.get(v), str)) if settings.citations else ():
        if (own := nodes_in(joined[name])).excerpts:
            citable[name], texts[name] = own, joined[name]
    if not texts and not warnings and not reasons and not exact:
        return None
    unmarked = None if any(chosen.get(name) for name in variables) else next(iter(reasons), None)
    return Filling(texts, chosen, instructions, exact, tuple(warnings), unmarked, citable)


def _chosen_in_text(question: str, name: str, text: str, highlighter: Highlighter, *, by_line: bool) -> Marks:
    """What is chosen in a context of which nothing is known but its text."""
    answers, parts = current_flow().answers, context_passages(name, text, by_line=by_line)
    if not parts:
        return Marks(unmarked=_METADATA if any(map(str.isalnum, text)) else None)
    passages = [p for p in parts if not is_answer(p.passage.text, answers)]
    if not passages:  # on purpose, as in a summary of summaries
        return Marks(warnings=(f"{name}: {_ANSWERS}",))
    spans, told = choose(passages, question, highlighter)
    return Marks(spans, told, None if spans else NOTHING_CHOSEN)


def _not_located(template: BasePromptTemplate, values: Mapping[str, object]) -> list[str]:
    """Values that may hold anybody's text and cannot be told from the template's own words."""
    harmless = (str, int, float, bool, type(None), BasePromptTemplate)
    return [*(name for name, v in values.items() if not isinstance(v, harmless)), *(template.function_mappings or ())]


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def highlight_text(text: str, render: Callable[[Mapping[str, str]], str], filling: Filling) -> Announced:
    """A completion prompt with its highlights.

    Args:
        text: the rendered prompt.
        render: renders it again with other values of the context variables.
    """
    placements, warnings, unmarked = _placements(text, render, filling)
    spans = filling.spans(placements or ())
    if filling.instructions and placements is not None:
        spans += own_words(text, placements)
    return Announced(Prompt(text, tuple(sorted(spans))), tuple(warnings), unmarked, filling.cited(placements or ()))


def highlight_messages(
    messages: list[ChatMessage], render: Callable[[Mapping[str, str]], list[ChatMessage]], filling: Filling
) -> list[ChatMessage]:
    """Chat messages with their highlights in ``additional_kwargs``; arguments as for ``highlight_text``.

    A message that the template itself carries marks on keeps those.
    """
    separator = f"Qz{secrets.token_hex(12)}zQ"  # no value can contain it, so none can reach into another message
    text, starts = _joined(messages, separator)
    placements, warnings, unmarked = _placements(text, lambda values: _joined(render(values), separator)[0], filling)
    spans, cited = filling.spans(placements or ()), filling.cited(placements or ())
    marked, user = list(messages), last_of_user(messages)
    for i, (message, start) in enumerate(zip(messages, starts, strict=True)):
        end, last = start + len(message.content or ""), i == len(messages) - 1
        inside = [s for s in spans if start <= s.start and s.end <= end]
        if filling.instructions and placements is not None and (message.role in SYSTEM_ROLES or i == user):
            inside += own_words(text, placements, start, end)
        own = sorted(shift(inside, -start))
        citable = cited.within(start, end)
        told, why = (warnings, unmarked) if last else ([], None)
        # an empty list of marks says that nothing else in the message is a highlight
        if (own or told or why or filling.exact or citable.excerpts) and KEY not in message.additional_kwargs:
            marked[i] = mark_message(message, own, warnings=told, unmarked=why, citable=citable)
    return marked


def _placements(
    text: str, render: Callable[[Mapping[str, str]], str], filling: Filling
) -> tuple[tuple[Placement, ...] | None, list[str], str | None]:
    """Where the values stand, or None if the template does not place them as they are; warnings; why nothing is marked."""
    try:
        _, placements = locate_values(lambda values: text if values == filling.texts else render(values), filling.texts)
    except Exception as error:  # also what a template or a function in it raises when it is given a nonce
        reason = "" if isinstance(error, SekaError) else f" ({type(error).__name__} at the second rendering)"
        names = ", ".join(filling.texts)
        changed = f"the template changes the text of {names}{reason}: highlights in it cannot be followed"
        if any(filling.chosen.values()):
            return None, list(filling.warnings), changed
        return None, [*filling.warnings, changed], filling.unmarked
    return placements, list(filling.warnings), filling.unmarked


def _joined(messages: Sequence[ChatMessage], separator: str) -> tuple[str, list[int]]:
    """All messages as one text with everything that must stay the same, and where each content begins."""
    text, starts = "", []
    for message in messages:
        text += f"{separator}{message.role.value} {len(message.blocks)} "
        starts.append(len(text))
        text += message.content or ""
    return text, starts


def follow_messages(
    messages: Sequence[ChatMessage], prompts: Sequence[Prompt], to_prompt: Callable[[Sequence[ChatMessage]], str]
) -> Prompt:
    """Messages as one text with highlights, for a model without a chat template.

    Raises:
        ProvenanceError: ``to_prompt`` changes a message.
    """
    plain = [ChatMessage(role=m.role, content=str(p)) for m, p in zip(messages, prompts, strict=True)]
    if not any(p.spans for p in prompts):
        return Prompt(to_prompt(plain))
    texts = {str(i): str(p) for i, p in enumerate(prompts) if str(p).strip()}

    def render(values: Mapping[str, str]) -> str:
        filled = [ChatMessage(role=m.role, content=values.get(str(i), m.content or "")) for i, m in enumerate(plain)]
        return to_prompt(filled)

    text, placements = locate_values(render, texts)
    return Prompt(text, tuple(span for p in placements for span in p.place(prompts[int(p.name)].spans)))


def follow_text(prompt: Prompt, to_prompt: Callable[[str], str]) -> Prompt:
    """A completion prompt through the user's own wrapper of prompts, highlights kept.

    Raises:
        ProvenanceError: ``to_prompt`` changes the prompt.
    """
    if not prompt.spans:
        return Prompt(to_prompt(prompt.text))
    text, placements = locate_values(lambda values: to_prompt(values["prompt"]), {"prompt": prompt.text})
    return Prompt(text, tuple(span for p in placements for span in p.place(prompt.spans)))
