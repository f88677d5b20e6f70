"""From a model call's messages and its evidence to weighted character ranges: four sources, the first that has any.

1. Spans that the user's code put on a message. 2. Documents in a tool message's artifact, if tools are trusted.
3. What the chain's retriever returned, where a prompt variable brought it into a message. Beside 2 and 3, instructions
may be highlighted if they are asked for. 4. The documents of an open ``with seka_rag.highlighting(...)``.
Except in 4, which the user's code asks for, nothing is ever searched for in a whole message: a document that copies
another sentence must not highlight it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_seka.capture import Evidence, FilledPrompt
from langchain_seka.instructions import Follow, instruction_spans
from langchain_seka.marks import has_marks, marks_of
from langchain_seka.messages import artifact_documents, role_of, text_of
from langchain_seka.placing import Place, place_passages
from langchain_seka.templates import Filled, RenderedMessage, rebuild
from langchain_seka.wanted import Wanted
from seka_rag import Highlighter, Passage, Placement, Span, as_passage, choose_spans, open_highlighting


@dataclass(frozen=True)
class Highlights:
    """Spans with the index of the message that each belongs to, and what the caller should know."""

    spans: tuple[tuple[int, Span], ...] = ()
    warnings: tuple[str, ...] = ()

    def report(self) -> list[dict[str, Any]]:
        """The spans as plain data, without any text."""
        return [
            {"message": i, "start": s.start, "end": s.end, "weight": s.weight, "source": s.source}
            for i, s in self.spans
        ]


def nothing_wanted() -> Highlights:
    """Of a call with ``highlight="off"`` or without steering."""
    if open_highlighting() is None:
        return Highlights()
    return Highlights(warnings=("the open highlighting(...) marks nothing here: highlight is 'off' or steering None",))


def for_messages(
    messages: Sequence[BaseMessage],
    evidence: Evidence | None,
    wanted: Wanted,
    prompts: Sequence[FilledPrompt] = (),
) -> Highlights:
    """Highlights of a conversation; ``prompts`` are the templates that may have made it."""
    said = [i for i, m in enumerate(messages) if role_of(m) in ("user", "system", "developer")]
    return _in_block(_own(messages, evidence, wanted, prompts), said, [text_of(messages[i]) for i in said])


def _in_block(own: Highlights, at: Sequence[int], texts: Sequence[str]) -> Highlights:
    """With the highlights of the open block, if there is one and there are none of its own."""
    scope = open_highlighting()
    if scope is None or own.spans:
        return own
    found = zip(at, scope.find(texts), strict=True)
    return replace(own, spans=tuple((i, span) for i, spans in found for span in spans))


def _own(
    messages: Sequence[BaseMessage], evidence: Evidence | None, wanted: Wanted, prompts: Sequence[FilledPrompt]
) -> Highlights:
    explicit = _explicit(messages, wanted)
    if explicit.spans:
        return explicit
    # what the model or a tool said is no place for retrieved passages
    targets = [(m.type, text_of(m)) if m.type not in ("ai", "tool", "function") else None for m in messages]
    found = from_tools(messages, wanted) if "context" in wanted.kinds else Highlights()

    def follow(filled: Filled, names: Sequence[str]) -> list[RenderedMessage] | None:
        return filled.messages(names)

    if not found.spans and "context" in wanted.kinds:
        automatic = _automatic(targets, evidence, wanted.highlighter, follow)
        found = replace(automatic, warnings=(*found.warnings, *automatic.warnings))
    return _with_instructions(found, targets, evidence, wanted, prompts, follow, explicit.warnings)


def for_text(
    prompt: str, evidence: Evidence | None, wanted: Wanted, prompts: Sequence[FilledPrompt] = ()
) -> Highlights:
    """Highlights of a completion prompt."""

    def follow(filled: Filled, names: Sequence[str]) -> list[RenderedMessage] | None:
        rendered = filled.text(names)
        return None if rendered is None else [rendered]

    targets = [("text", prompt)]
    found = _automatic(targets, evidence, wanted.highlighter, follow) if "context" in wanted.kinds else Highlights()
    own = _with_instructions(found, targets, evidence, wanted, prompts, follow, ())
    return _in_block(own, [0], [prompt])


def _with_instructions(
    found: Highlights,
    targets: Sequence[tuple[str, str] | None],
    evidence: Evidence | None,
    wanted: Wanted,
    prompts: Sequence[FilledPrompt],
    follow: Follow,
    warnings: tuple[str, ...],
) -> Highlights:
    spans: tuple[tuple[int, Span], ...] = ()
    if "instructions" in wanted.kinds:
        retrievals = evidence.retrievals if evidence else ()
        said = instruction_spans(
            targets,
            prompts,
            follow,
            passages=[p.text for r in retrievals for p in _passages(r.documents)],
            queries={r.query.strip() for r in retrievals},
            retrieved=bool(retrievals),
        )
        spans = tuple(said)
        if not said:
            warnings = (
                *warnings,
                "no instructions are known in this prompt: no template that made it could be followed",
            )
    return Highlights((*found.spans, *spans), (*warnings, *found.warnings))


def _explicit(messages: Sequence[BaseMessage], wanted: Wanted) -> Highlights:
    spans: list[tuple[int, Span]] = []
    warnings: list[str] = []
    for i, message in enumerate(messages):
        if not has_marks(message):
            continue
        if isinstance(message, AIMessage) or (isinstance(message, ToolMessage) and not wanted.trusts(message)):
            warnings.append(f"message {i}: highlights on {message.type} messages are not trusted; they were dropped")
            continue
        own, warning = marks_of(message)
        spans += [(i, span) for span in own]
        if warning:
            warnings.append(f"message {i}: {warning}")
    return Highlights(tuple(spans), tuple(warnings))


def from_tools(messages: Sequence[BaseMessage], wanted: Wanted) -> Highlights:
    """Documents in the artifacts of trusted tools, looked for inside their own tool message only."""
    spans: list[tuple[int, Span]] = []
    warnings: list[str] = []
    question = next((text_of(m) for m in reversed(messages) if isinstance(m, HumanMessage)), "")
    for i, message in enumerate(messages):
        if isinstance(message, ToolMessage) and message.artifact is not None and wanted.trusts(message):
            passages = _passages(artifact_documents(message))
            places = place_passages([p.text for p in passages], text_of(message))
            there = sorted(places)
            chosen, told = choose_spans(wanted.highlighter, question, [passages[k] for k in there])
            warnings += told
            for k, own in zip(there, chosen, strict=True):
                spans += [(i, moved) for span in own if (moved := places[k].move(span))]
    return Highlights(tuple(spans), tuple(dict.fromkeys(warnings)))


def _automatic(
    targets: Sequence[tuple[str, str] | None], evidence: Evidence | None, highlighter: Highlighter, follow: Follow
) -> Highlights:
    if evidence is None:
        return Highlights()
    # the latest first: of a passage that was found twice, the later query counts
    passages = [(r.query, p) for r in reversed(evidence.retrievals) for p in _passages(r.documents)]
    if not passages:
        return Highlights(warnings=("the retriever found no passage",))
    queries = {r.query.strip() for r in evidence.retrievals}
    warnings: list[str] = []
    placed: list[tuple[int, Placement, dict[int, Place]]] = []
    for prompt in evidence.prompts:
        filled = rebuild(prompt)
        if filled is None:
            continue
        carriers, unclear = _carriers(filled.values, [p.text for _, p in passages], queries)
        rendered = follow(filled, list(carriers)) if carriers or unclear else None
        for message in rendered or ():
            for i, target in enumerate(targets):
                if target == (message.type, message.text):
                    placed += [(i, p, carriers[p.name]) for p in message.placements if p.name in carriers]
                    if unclear:
                        warnings.append(f"{unclear} passage(s) fit several prompt variables equally and stay unmarked")
    if not placed:
        warnings.append(
            f"none of {len(passages)} retrieved passages could be followed into this prompt: they stay unmarked. "
            "A prompt template of LangChain must bring their text in unchanged, through a variable. For other prompts "
            "use HighlightPrompt"
        )
        return Highlights(warnings=tuple(dict.fromkeys(warnings)))
    chosen, told = _chosen(passages, sorted({k for _, _, places in placed for k in places}), highlighter)
    warnings += told
    spans = [
        (i, span)
        for i, placement, places in placed
        for k, place in places.items()
        for own in chosen[k]
        if (moved := place.move(own)) is not None
        for span in placement.place((moved,))
    ]
    if not spans:
        warnings.append("the highlighter chose nothing in the retrieved passages")
    in_order = sorted(set(spans), key=lambda own: (own[0], own[1].start, own[1].end))
    return Highlights(tuple(in_order), tuple(dict.fromkeys(warnings)))


def _carriers(
    values: Mapping[str, str], texts: Sequence[str], queries: Container[str]
) -> tuple[dict[str, dict[int, Place]], int]:
    """Which variable holds which passages, each passage in one variable only; and how many stay undecided.

    A passage that stands in several variables belongs to the one with the most passages, and rather to another than
    to the question: the others are text that it repeats. If that does not decide it, nothing may be marked for it.
    """
    found = {name: places for name, text in values.items() if (places := place_passages(texts, text))}
    ranks = {name: (-len(places), values[name].strip() in queries) for name, places in found.items()}
    carriers: dict[str, dict[int, Place]] = {}
    unclear = 0
    for k in range(len(texts)):
        names = sorted((name for name in found if k in found[name]), key=ranks.__getitem__)
        if len(names) > 1 and ranks[names[0]] == ranks[names[1]]:
            unclear += 1
        elif names:
            carriers.setdefault(names[0], {})[k] = found[names[0]][k]
    return carriers, unclear


def _passages(documents: Sequence[Any]) -> list[Passage]:
    """Documents as passages, each text once, blank ones left out."""
    passages = [as_passage(document) for document in documents]
    return list({p.text: p for p in reversed(passages) if p.text.strip()}.values())[::-1]


def _chosen(
    passages: Sequence[tuple[str, Passage]], there: Sequence[int], highlighter: Highlighter
) -> tuple[dict[int, tuple[Span, ...]], list[str]]:
    """Spans of the passages that reached the prompt, chosen for the query that found them, and warnings."""
    chosen: dict[int, tuple[Span, ...]] = {}
    warnings: list[str] = []
    for query in dict.fromkeys(passages[k][0] for k in there):
        own = [k for k in there if passages[k][0] == query]
        spans, told = choose_spans(highlighter, query, [passages[k][1] for k in own])
        chosen.update(zip(own, spans, strict=True))
        warnings += told
    return chosen, warnings
