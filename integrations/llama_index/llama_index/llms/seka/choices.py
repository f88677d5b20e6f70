"""What was chosen in the nodes of a request, until the model is given their text.

Between the two LlamaIndex hands on bare text: nodes are joined, put into another order, left out, split again. A choice
holds the exact texts that it was made for, and a context is only taken for its nodes if it is made of these and of nothing
else.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from llama_index.llms.seka.context import is_answer
from llama_index.llms.seka.flow import LEAST, Flow, current_flow, set_choice

from seka_rag import Prompt, Span, Trusted, TrustPolicy
from seka_rag.frameworks import (
    DISPUTED,
    NOTHING_CHOSEN,
    Marks,
    Place,
    Squeezed,
    place_passages,
    undisputed,
    unexplained,
)

_FOREIGN = (
    "this is not text of the nodes that its HighlightPostprocessor was given. Put that postprocessor last, behind those that "
    "change nodes, into the query engine whose model has it"
)
_OTHER_POLICY = (
    "these nodes passed a HighlightPostprocessor with other settings than the model's: give both the same, as in "
    "chosen = HighlightPostprocessor(...), SekaLLM(highlighter=chosen), node_postprocessors=[chosen]"
)
_DISAGREED = (
    "earlier choices for the same question and the same texts differ, so only what all of them mark is highlighted: retrieve, "
    "choose and answer in one task, or ask with other texts"
)
#: What synthesizers write between nodes: "Source 2:".
_LABEL = re.compile(r"\W*(?:source|passage|document|node|chunk)?\W*\d*\W*", re.IGNORECASE)
#: How many choices are kept for calls of the model that are still to come.
_KEEP = 1024

#: Texts with what is highlighted in them.
_Parts = tuple[tuple[Prompt, Squeezed], ...]


@dataclass(eq=False)
class Choice:
    """Highlights of the nodes retrieved for one question, each a Prompt of what the model is shown of the node.

    Attributes:
        distrusted: indices of the nodes that may not be highlighted.
        by: the settings that chose; choices of equal settings are alike.
        bodies: where in each node its own text stands, between its metadata.
    """

    question: str
    nodes: tuple[Prompt, ...]
    warnings: tuple[str, ...] = ()
    distrusted: frozenset[int] = frozenset()
    by: tuple[object, ...] = ()
    bodies: tuple[tuple[int, int], ...] = ()

    @property
    def policy(self) -> TrustPolicy | None:
        """The trust policy that it was made under, if any."""
        return next((own.policy for own in self.by if isinstance(own, Trusted)), None)

    @cached_property
    def _whole(self) -> _Parts:
        return tuple((node, Squeezed(node.text)) for node in self.nodes)

    @cached_property
    def _apart(self) -> _Parts:
        """The nodes' own texts, and then their metadata: some engines write labels between the two."""
        between = list(zip(self.nodes, self.bodies, strict=True))
        metadata = [
            Prompt(node.text[part]) for node, (start, end) in between for part in (slice(start), slice(end, None))
        ]
        parts = [*(node[start:end] for node, (start, end) in between), *(m for m in metadata if m.text.strip())]
        return tuple((part, Squeezed(part.text)) for part in parts)

    def standing(self, context: str) -> tuple[int, ...] | None:
        """Indices of the nodes that may stand in a context, or None if it is not made of these nodes."""
        placed = self._placed(context)
        return None if placed is None else tuple(i for i in placed[1] if i < len(self.nodes))

    def marks_in(self, context: str) -> Marks | None:
        """The highlights in a context, or None if it is not made of these nodes."""
        placed = self._placed(context)
        if placed is None:
            return None
        parts, found = placed
        certain, disputed = undisputed(found, self.distrusted)
        moved = (place.move(span) for i, places in certain.items() for span in parts[i][0].spans for place in places)
        spans = sorted({span for span in moved if span is not None}, key=_order)
        if spans:
            return Marks(tuple(spans), (*self.warnings, *([DISPUTED] if disputed else [])))
        return Marks((), self.warnings, DISPUTED if disputed else NOTHING_CHOSEN)

    def _placed(self, context: str) -> tuple[_Parts, dict[int, tuple[Place, ...]]] | None:
        """Where the nodes stand in a context that is made of them: as they are shown, or text and metadata apart."""
        for parts in (self._whole, self._apart) if self.bodies else (self._whole,):
            texts = [text for _, text in parts]
            found = place_passages(texts, context, least=LEAST)
            rest = unexplained((place for places in found.values() for place in places), context)
            if found and all(_is_of(texts, piece) for piece in rest):
                return parts, found
        return None


def _is_of(texts: Sequence[Squeezed], piece: str) -> bool:
    """Whether it is the rest of a node at a border, or a label between nodes."""
    short = len(piece) < LEAST and any(piece in text.text for text in texts)
    return short or _LABEL.fullmatch(piece) is not None


def _order(span: Span) -> tuple[int, int, str]:
    return span.start, span.end, span.source or ""


class ChoiceStore:
    """The last choices of all postprocessors."""

    def __init__(self, keep: int = _KEEP) -> None:
        self._kept: deque[Choice] = deque(maxlen=keep)
        self._lock = threading.Lock()

    def put(self, choice: Choice) -> None:
        """Keep a choice, for any call of the model that follows, and as the latest of this task or thread."""
        with self._lock:
            self._kept.append(choice)
        set_choice(choice)

    def find(
        self,
        question: str,
        context: str,
        *,
        by: tuple[object, ...] | None = None,
        policy: TrustPolicy | None = None,
        choose: Callable[[str, Flow, str], Marks | None] | None = None,
    ) -> Marks | None:
        """The highlights of a context, and what the report should say of them.

        The latest choice of this task or thread counts. Where it is of another question, as in workflows whose steps are
        tasks of their own, it is those that were kept for this question: a highlight counts if none of them lacks it. A
        chat engine that rewrites the question asks the model with another one: then it is the latest again. Nodes that
        this task or thread retrieved, and in which nobody chose, are never taken for those of an earlier query. Only a
        model with a postprocessor looks beyond its task or thread.

        Args:
            by: settings of the model's postprocessor; without one, any postprocessor's choice counts.
            policy: of the model's own highlighter; a choice of another policy then does not count.
            choose: chooses in those retrieved nodes that stand in the context, where no postprocessor did and the model
                has none.

        Returns:
            None if nothing is known of this context, and no policy can be lost with it.
        """
        flow = current_flow()
        choice: Choice | None = flow.choice
        marks = choice.marks_in(context) if choice is not None else None
        if choice is not None and marks is not None and not _goes_with(choice, by, policy):
            return Marks(unmarked=_OTHER_POLICY)
        if choice is not None and marks is not None and choice.question == question:
            return marks
        if choice is None and flow.nodes and choose is not None:
            own = choose(question, flow, context)
            if own is not None:
                return own
        elif choice is None and flow.holds(context):
            return Marks(unmarked=_FOREIGN)
        with self._lock:
            kept = [c for c in reversed(self._kept) if c.question == question and by is not None and c.by == by]
        found = [m for c in kept if (m := c.marks_in(context)) is not None]
        if found:
            return _agreed(found)
        if marks is not None:
            other = "highlighted as chosen for another question, which the nodes were retrieved with"
            return replace(marks, warnings=(other, *marks.warnings))
        # a choice in what this task or thread retrieved holds until the next retrieval, whatever is asked
        lost = choice is not None and choice.policy is not None and (flow.nodes or choice.question == question)
        if by is None and not lost:
            return None
        return Marks(warnings=(_FOREIGN,)) if _is_of_answers(context, flow) else Marks(unmarked=_FOREIGN)


#: Those of this process. A choice is found by its texts, so it serves every model that may use it.
CHOICES = ChoiceStore()


def _goes_with(choice: Choice, by: tuple[object, ...] | None, policy: TrustPolicy | None) -> bool:
    """Whether a model with a postprocessor of these settings, or with a policy, may use the choice."""
    return choice.by == by if by is not None else policy is None or choice.policy == policy


def _agreed(found: list[Marks]) -> Marks:
    """Of several choices for one text, the latest first: what all of them mark."""
    latest, *earlier = found
    spans = tuple(span for span in latest.spans if all(span in marks.spans for marks in earlier))
    if len(spans) == len(latest.spans):
        return latest
    return Marks(spans, (*latest.warnings, _DISAGREED), None if spans else _DISAGREED)


def _is_of_answers(context: str, flow: Flow) -> bool:
    """Whether it is made of what the model answered, as the second level of a summary is."""
    return all(is_answer(part, flow.answers) for part in context.split("\n\n") if part.strip())
