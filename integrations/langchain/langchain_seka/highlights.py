"""From a model call's messages and its evidence to weighted character ranges: four sources, the first that has any.

1. Spans that the user's code put on a message; one with an empty list of them gets no others. 2. Documents in a tool
message's artifact, if tools are trusted. 3. What the chain's retriever returned, where a prompt variable brought it into a
message. Beside 2 and 3, instructions and the question may be highlighted if they are asked for. 4. The documents of an
open ``with seka_rag.highlighting(...)``. Except in 4, which the user's code asks for, nothing is ever searched for in a
whole message: a document that copies another sentence must not highlight it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_seka.capture import Evidence, FilledPrompt, Message
from langchain_seka.instructions import Follow, said_spans
from langchain_seka.marks import has_marks, marks_of
from langchain_seka.messages import artifact_documents, role_of, text_of
from langchain_seka.passages import followable, place_in_messages
from langchain_seka.templates import Filled, RenderedMessage
from seka_rag import Passage, Span
from seka_rag.frameworks import (
    DISPUTED,
    NOTHING_CHOSEN,
    Highlighter,
    Highlights,
    HighlightSettings,
    as_passage,
    choose_spans,
    distrusts,
    place_passages,
    undisputed,
    unique,
)

_HOW = "A prompt template of LangChain must bring their text in unchanged, through a variable; for others use HighlightPrompt"


_LOST = (
    "HighlightPrompt marks what it makes, and a later step made its messages anew and lost the marks: keep the messages' "
    "additional_kwargs"
)


def messages_made(messages: Sequence[BaseMessage]) -> list[Message]:
    """How ``Capture`` knows the messages of a call."""
    return [(m.type, text_of(m)) for m in messages]


def for_messages(
    messages: Sequence[BaseMessage],
    evidence: Evidence | None,
    settings: HighlightSettings,
    prompts: Sequence[FilledPrompt] = (),
    *,
    tools: Sequence[str] = (),
) -> Highlights:
    """Highlights of a conversation.

    Args:
        prompts: the templates that may have made it.
        tools: names of those that the model may call, if it is told of any.
    """
    said = {i: text_of(m) for i, m in enumerate(messages) if role_of(m) in ("user", "system", "developer")}
    explicit, decided = _explicit(messages, settings)
    if explicit.spans:
        return explicit
    targets, follow = followable(messages), follow_messages
    found = from_tools(messages, settings, tools) if settings.has("context") else Highlights()
    if not found.spans:
        retrieved = _retrieved(targets, evidence, settings, prompts, follow, decided)
        found = replace(
            retrieved,
            warnings=(*found.warnings, *retrieved.warnings),
            unmarked=retrieved.unmarked or found.unmarked,
        )
    found = _with_said(found, targets, evidence, settings, prompts, follow)
    return Highlights(
        tuple(own for own in found.spans if own[0] not in decided),
        (*explicit.warnings, *found.warnings),
        explicit.unmarked or found.unmarked,
    ).in_open_block(said)


def for_text(
    prompt: str, evidence: Evidence | None, settings: HighlightSettings, prompts: Sequence[FilledPrompt] = ()
) -> Highlights:
    """Highlights of a completion prompt."""
    targets, follow = [("text", prompt)], follow_text
    found = _retrieved(targets, evidence, settings, prompts, follow)
    return _with_said(found, targets, evidence, settings, prompts, follow).in_open_block({0: prompt})


def follow_messages(filled: Filled, names: Sequence[str]) -> list[RenderedMessage] | None:
    """Where variables stand in the messages of a template."""
    return filled.messages(names)


def follow_text(filled: Filled, names: Sequence[str]) -> list[RenderedMessage] | None:
    """Where variables stand in a template's text."""
    rendered = filled.text(names)
    return None if rendered is None else [rendered]


def _with_said(
    found: Highlights,
    targets: Sequence[Message | None],
    evidence: Evidence | None,
    settings: HighlightSettings,
    prompts: Sequence[FilledPrompt],
    follow: Follow,
) -> Highlights:
    if not settings.has("instructions") and not settings.has("question"):
        return found
    retrievals = evidence.retrievals if evidence else ()
    spans = said_spans(
        targets,
        prompts,
        follow,
        settings,
        passages=[found.text for r in retrievals for found in r.found],
        queries={r.query.strip() for r in retrievals},
        retrieved=bool(retrievals),
    )
    if spans:
        return replace(found, spans=(*found.spans, *spans))
    why = "no instructions are known in this prompt: no template that made it could be followed"
    return replace(found, warnings=(why, *found.warnings))


def _explicit(messages: Sequence[BaseMessage], settings: HighlightSettings) -> tuple[Highlights, set[int]]:
    """What messages carry, and the numbers of those that carry marks, be they none: nothing else in them is highlighted."""
    spans: list[tuple[int, Span]] = []
    warnings: list[str] = []
    unmarked: str | None = None
    decided: set[int] = set()
    for i, message in enumerate(messages):
        if not has_marks(message):
            continue
        tool = isinstance(message, ToolMessage) and not settings.trusts(message.name)
        if isinstance(message, AIMessage) or tool:
            warnings.append(f"message {i}: highlights on {message.type} messages are not trusted; they were dropped")
            continue
        marks = marks_of(message)
        decided.add(i)
        spans += [(i, span) for span in marks.spans]
        warnings += [f"message {i}: {warning}" for warning in marks.warnings]
        lost = marks.unmarked in marks.warnings
        unmarked = unmarked or (f"message {i}: {marks.unmarked}" if lost else marks.unmarked)
    return Highlights(tuple(spans), tuple(warnings), unmarked), decided


def from_tools(messages: Sequence[BaseMessage], settings: HighlightSettings, tools: Sequence[str] = ()) -> Highlights:
    """Documents in the artifacts of trusted tools, looked for inside their own tool message only."""
    spans: list[tuple[int, Span]] = []
    warnings: list[str] = []
    named = settings.tools if not isinstance(settings.tools, bool) and tools else ()
    unknown = [repr(name) for name in named if name not in tools]
    answered = any(isinstance(m, ToolMessage) and artifact_documents(m) for m in messages) if unknown else False
    unmarked = (
        f"highlight_tools names {', '.join(unknown)}, and the tools are {', '.join(map(repr, tools))}"
        if answered
        else None
    )
    question = next((text_of(m) for m in reversed(messages) if isinstance(m, HumanMessage)), "")
    for i, message in enumerate(messages):
        if not isinstance(message, ToolMessage) or not settings.trusts(message.name) or has_marks(message):
            continue
        passages = [p for p in map(as_passage, artifact_documents(message)) if p.text.strip()]
        places = place_passages([p.text for p in passages], text_of(message))
        chosen, told, distrusted = _chosen([(question, p) for p in passages], list(places), settings.highlighter)
        certain, disputed = undisputed(places, distrusted)
        warnings += told
        new = [
            (i, moved)
            for k, here in certain.items()
            for span in chosen[k]
            for place in here
            if (moved := place.move(span))
        ]
        spans += new
        if new and disputed:
            warnings.append(DISPUTED)
        if not new:
            unmarked = DISPUTED if disputed else _why_not(message, passages, places)
    return Highlights(tuple(spans), unique(warnings), unmarked)


def _why_not(message: ToolMessage, passages: Sequence[Passage], places: Mapping[int, object]) -> str | None:
    if not passages:
        return (
            f"the tool {message.name!r} returned no documents as its artifact: give it "
            "response_format='content_and_artifact', and return them beside the text"
        )
    if not places:
        return f"the documents of the tool {message.name!r} do not stand unchanged in the text that it returned"
    return NOTHING_CHOSEN


def _retrieved(
    targets: Sequence[Message | None],
    evidence: Evidence | None,
    settings: HighlightSettings,
    prompts: Sequence[FilledPrompt],
    follow: Follow,
    decided: Collection[int] = (),
) -> Highlights:
    if not settings.has("context"):
        return Highlights()
    if any(prompt.by_hand for prompt in prompts):
        return Highlights(unmarked=None if decided else _LOST)
    return _automatic(targets, evidence, settings.highlighter, follow)


def _automatic(
    targets: Sequence[Message | None], evidence: Evidence | None, highlighter: Highlighter, follow: Follow
) -> Highlights:
    if evidence is None:
        return Highlights()
    standing = place_in_messages(targets, evidence, follow)
    passages, placed, warnings = standing.passages, standing.placed, list(standing.warnings)
    if not passages:
        return Highlights(warnings=("the retriever found no passage",))
    if not placed:
        why = unique(standing.reasons) or ("no template of LangChain is known to have made this prompt",)
        unmarked = f"the retrieved passages could not be followed into this prompt: {'; '.join(why)}. {_HOW}"
        return Highlights(warnings=unique(warnings), unmarked=unmarked)
    there = sorted({k for _, _, places in placed for k in places})
    chosen, told, distrusted = _chosen([(p.query, p.passage) for p in passages], there, highlighter)
    dropped = [k for k in there if passages[k].identity in evidence.dropped]
    sure = [(i, placement, undisputed(places, distrusted, dropped)) for i, placement, places in placed]
    disputed = any(unsure for _, _, (_, unsure) in sure)
    warnings += told
    spans = {
        (i, span)
        for i, placement, (places, _) in sure
        for k, here in places.items()
        for own in chosen[k]
        for place in here
        if (moved := place.move(own)) is not None
        for span in placement.place((moved,))
    }
    in_order = sorted(spans, key=lambda own: (own[0], own[1].start, own[1].end, own[1].source or ""))
    if not spans:
        return Highlights((), unique(warnings), DISPUTED if disputed else NOTHING_CHOSEN)
    return Highlights(tuple(in_order), unique([*warnings, *([DISPUTED] if disputed else [])]))


def _chosen(
    passages: Sequence[tuple[str, Passage]], there: Sequence[int], highlighter: Highlighter
) -> tuple[dict[int, tuple[Span, ...]], list[str], set[int]]:
    """Spans of the passages that reached the prompt, chosen for the query that found them; warnings; all the distrusted.

    Args:
        passages: each with its query.
        there: indices of those that reached the prompt.
    """
    spans: dict[int, tuple[Span, ...]] = {}
    warnings: list[str] = []
    distrusted = {k for k, (_, passage) in enumerate(passages) if k not in there and distrusts(highlighter, passage)}
    for query in dict.fromkeys(passages[k][0] for k in there):
        own = [k for k in there if passages[k][0] == query]
        chosen = choose_spans(highlighter, query, [passages[k][1] for k in own])
        spans.update(zip(own, chosen.spans, strict=True))
        warnings += chosen.warnings
        distrusted |= {own[n] for n in chosen.distrusted}
    return spans, warnings, distrusted
