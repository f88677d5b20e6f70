"""Where a template put its values, proven by rendering it a second time with nonces.

Searching the result for a value would let a document that copies a sentence of the template move a highlight.
Here the places come from the template itself: literal, value, literal, ... must add up to the real text exactly.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from seka_rag.errors import ProvenanceError
from seka_rag.text.spans import Span, clip, shift

#: What templates commonly do to a value without changing the characters inside it.
_TRANSFORMS: tuple[Callable[[str], str], ...] = (lambda s: s, str.strip, str.lstrip, str.rstrip)
#: The placements of the latest value, and the path to it.
_Path = tuple[Any, tuple["Placement", ...]]
#: What JSON escapes in text of any characters, and in pure ASCII.
_ESCAPES = ((re.compile(r'[\x00-\x1f"\\]'), False), (re.compile(r'[^\x20-\x7e]|["\\]'), True))


@dataclass(frozen=True, slots=True)
class Placement:
    """Characters ``[start, end)`` of the rendered text hold the value ``name`` from its character ``offset`` on."""

    name: str
    start: int
    end: int
    offset: int = 0

    def place(self, spans: tuple[Span, ...]) -> tuple[Span, ...]:
        """Spans of the value, moved to where the value stands in the rendered text."""
        inside = clip(spans, self.offset, self.offset + self.end - self.start)
        return shift(inside, self.start - self.offset)


def locate_values(
    render: Callable[[Mapping[str, str]], str], values: Mapping[str, str]
) -> tuple[str, tuple[Placement, ...]]:
    """Render a template and say where each value stands in the result.

    Args:
        render: fills a template with values by name; called twice.
        values: the real values.

    Returns:
        The rendered text, and the placements in the order of the text (a value used twice has two).

    A value written as a JSON string is followed as well; each of its pieces between escapes has a placement then.

    Raises:
        ProvenanceError: the template changes a value (upper case, HTML escapes) or depends on its content.
    """
    text = render(values)
    secret = secrets.token_hex(12)
    names = list(values)
    template = render({**values, **{name: f"Qz{secret}x{i}zQ" for i, name in enumerate(names)}})
    literals, order, last = [], [], 0
    for match in re.finditer(f"Qz{secret}x([0-9]+)zQ", template):
        literals.append(template[last : match.start()])
        order.append(names[int(match[1])])
        last = match.end()
    literals.append(template[last:])
    placements = _match(text, literals, order, values)
    if placements is None:
        raise ProvenanceError(
            "the template does not place its values literally (it changes them, or renders other text for other "
            f"values), so highlights in {sorted(set(order)) or sorted(values)} cannot be followed through it"
        )
    return text, placements


def _match(text: str, literals: list[str], order: list[str], values: Mapping[str, str]) -> tuple[Placement, ...] | None:
    """Literal, value, literal, ... laid against the text; depth first over the transforms of each value.

    A place in the text is tried once for each value, so that the time is bounded where values fit in many ways.
    """
    stack: list[tuple[int, int, _Path | None]] = [(0, 0, None)]
    tried: set[tuple[int, int]] = set()
    while stack:
        i, position, path = stack.pop()
        if (i, position) in tried or not text.startswith(literals[i], position):
            continue
        tried.add((i, position))
        position += len(literals[i])
        if i == len(order):
            if position == len(text):
                return _placements(path)
            continue
        value = values[order[i]]
        forms = list(dict.fromkeys(t(value) for t in _TRANSFORMS))
        for form in reversed(forms):
            for length, pieces in _as_json(form, text, position):
                offset = value.find(form)
                placed = tuple(Placement(order[i], position + a, position + b, offset + c) for a, b, c in pieces)
                stack.append((i + 1, position + length, (path, placed)))
        for form in reversed(forms):
            if text.startswith(form, position):
                placement = Placement(order[i], position, position + len(form), value.find(form))
                stack.append((i + 1, position + len(form), (path, (placement,))))
    return None


def _placements(path: _Path | None) -> tuple[Placement, ...]:
    groups = []
    while path is not None:
        path, placed = path
        groups.append(placed)
    return tuple(itertools.chain.from_iterable(reversed(groups)))


def _as_json(value: str, text: str, position: int) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
    """If the value stands there with the escapes of a JSON string: its length, and its pieces without escapes.

    A piece is its start and end in the text, both from ``position``, and its start in the value.
    """
    for escaped, ascii_only in _ESCAPES:
        first = escaped.search(value)
        if first is None or not text.startswith("\\", position + first.start()):
            continue
        written, pieces, last = [], [], 0
        length = 0
        for match in escaped.finditer(value):
            plain = value[last : match.start()]
            pieces.append((length, length + len(plain), last))
            written += [plain, json.dumps(match.group(), ensure_ascii=ascii_only)[1:-1]]
            length += len(plain) + len(written[-1])
            last = match.end()
        pieces.append((length, length + len(value) - last, last))
        form = "".join([*written, value[last:]])
        if text.startswith(form, position):
            yield len(form), [p for p in pieces if p[0] < p[1]]
