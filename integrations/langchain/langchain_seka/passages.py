"""Where retrieved passages stand in the messages of a call: in the variables of the templates that made them, nowhere else."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage

from langchain_seka.capture import Evidence, Message
from langchain_seka.instructions import Follow
from langchain_seka.messages import text_of
from langchain_seka.retrievals import Found
from langchain_seka.templates import rebuild
from seka_rag.frameworks import Place, Placement, Squeezed, place_passages, unique


@dataclass(frozen=True)
class Standing:
    """Where passages stand.

    Attributes:
        passages: what the retrievals found; places name them by their number.
        placed: the number of a message, where a variable stands in it, and the places of passages in that variable.
        warnings: for the report.
        reasons: why passages were not followed into the messages.
    """

    passages: tuple[Found, ...]
    placed: tuple[tuple[int, Placement, Mapping[int, tuple[Place, ...]]], ...]
    warnings: tuple[str, ...]
    reasons: tuple[str, ...]


def followable(messages: Sequence[BaseMessage]) -> list[Message | None]:
    """The messages in which retrieved passages may be looked for: not what the model or a tool said."""
    return [(m.type, text_of(m)) if m.type not in ("ai", "tool", "function") else None for m in messages]


def place_in_messages(targets: Sequence[Message | None], evidence: Evidence, follow: Follow) -> Standing:
    """Follow the passages of the evidence through the templates that made a call's messages; once for each way.

    Args:
        targets: type and text of each message; None for those in which no passage may be looked for.
        follow: says where variables stand in the messages of a template.
    """
    key = tuple(targets), follow
    if key not in evidence.standing:
        evidence.standing[key] = _followed(_passages_of(evidence), targets, evidence, follow)
    found: Standing = evidence.standing[key]
    return found


def _passages_of(evidence: Evidence) -> list[Found]:
    """The passages of all retrievals, in their order. One that was found twice counts once, for the later query."""
    seen: set[tuple[str, str | None, str]] = set()
    kept: list[Found] = []
    for retrieval in reversed(evidence.retrievals):
        kept[:0] = [found for found in retrieval.found if found.identity not in seen]
        seen |= {found.identity for found in retrieval.found}
    return kept


def _followed(
    passages: Sequence[Found], targets: Sequence[Message | None], evidence: Evidence, follow: Follow
) -> Standing:
    if not passages:
        return Standing((), (), (), ())
    queries = {r.query.strip() for r in evidence.retrievals}
    warnings, reasons = list[str](), list[str]()
    placed: list[tuple[int, Placement, dict[int, tuple[Place, ...]]]] = []
    for prompt in evidence.prompts:
        filled = rebuild(prompt)
        if filled is None:
            reasons.append("the template that made this prompt cannot be followed (a class or function of your own)")
            continue
        carriers, unclear = _carriers(filled.values, [p.text for p in passages], queries)
        rendered = follow(filled, list(carriers)) if carriers or unclear else None
        if not carriers and not unclear:
            names = ", ".join(filled.values) or "none"
            reasons.append(f"their text does not stand unchanged in any variable of the template ({names})")
        elif rendered is None:
            reasons.append(f"the template changes what it is given for {', '.join(carriers)}")
        for message in rendered or ():
            for i, target in enumerate(targets):
                if target == (message.type, message.text):
                    placed += [(i, p, carriers[p.name]) for p in message.placements if p.name in carriers]
                    if unclear:
                        warnings.append(f"{unclear} passage(s) fit several prompt variables equally and stay unmarked")
    if not evidence.prompts and evidence.variables:
        values = _values_in(evidence.variables, targets)
        carriers, unclear = _carriers(values, [p.text for p in passages], queries)
        placed = [(i, p, carriers[p.name]) for i, p in _alone(values, targets) if p.name in carriers]
        if unclear:
            warnings.append(f"{unclear} passage(s) fit several prompt variables equally and stay unmarked")
        if not placed:
            reasons.append("their text does not stand unchanged, and once, in this prompt of an LLMChain")
    return Standing(tuple(passages), tuple(placed), unique(warnings), unique(reasons))


def _alone(values: Mapping[str, str], targets: Sequence[Message | None]) -> list[tuple[int, Placement]]:
    """Where values stand in messages whose template is not known: those that stand there whole, and only once in all.

    So no text of a document can be taken for another that copies it, or is copied by it, elsewhere in the prompt.
    """
    alone = []
    for name, value in values.items():
        places = [(i, t[1].find(value), t[1].rfind(value)) for i, t in enumerate(targets) if t and value in t[1]]
        if len(places) == 1 and places[0][1] == places[0][2]:
            i, start, _ = places[0]
            alone.append((i, Placement(name, start, start + len(value))))
    return alone


def _values_in(several: Sequence[Mapping[str, object]], targets: Sequence[Message | None]) -> dict[str, str]:
    """Of the values of several prompts, those of the prompt with these messages: the one that explains most of them."""
    texts = [{str(name): v for name, v in own.items() if isinstance(v, str) and v.strip()} for own in several]
    return max(texts, key=lambda own: sum(p.end - p.start for _, p in _alone(own, targets)))


def _carriers(
    values: Mapping[str, str], passages: Sequence[Squeezed], queries: Container[str]
) -> tuple[dict[str, dict[int, tuple[Place, ...]]], int]:
    """Which variable holds which passages, each passage in one variable only; and how many stay undecided.

    A passage that stands in several variables belongs to the one with the most passages, and rather to another than
    to the question: the others are text that it repeats. If that does not decide it, nothing may be marked for it, even if
    the variables are filled with one and the same text: a document that copies an instruction would highlight that.
    """
    found = {name: places for name, text in values.items() if (places := place_passages(passages, text))}
    ranks = {name: (-len(places), values[name].strip() in queries) for name, places in found.items()}
    carriers: dict[str, dict[int, tuple[Place, ...]]] = {}
    unclear = 0
    for k in range(len(passages)):
        names = sorted((name for name in found if k in found[name]), key=ranks.__getitem__)
        if len(names) > 1 and ranks[names[0]] == ranks[names[1]]:
            unclear += 1
        elif names:
            carriers.setdefault(names[0], {})[k] = found[names[0]][k]
    return carriers, unclear
