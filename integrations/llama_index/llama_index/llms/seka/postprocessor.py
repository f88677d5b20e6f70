"""HighlightPostprocessor: which retrieved nodes, and which sentences in them, the model is to follow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index.llms.seka.choices import CHOICES, Choice
from llama_index.llms.seka.errors import raised_as_own
from llama_index.llms.seka.flow import Flow, watch

from seka_rag import Passage, Prompt, SekaError, Span, TopK, Trusted
from seka_rag.frameworks import (
    KEY,
    Highlighter,
    HighlighterField,
    Marks,
    as_passage,
    choose_spans,
    chooser,
    locate_values,
    write_marks,
)


class HighlightPostprocessor(BaseNodePostprocessor):
    """Chooses highlights where the nodes are known: with their scores, sources and metadata.

    Give it to the query engine. The model highlights what was chosen here, and with ``SekaLLM(highlighter=chosen)`` nothing
    else in any engine. Nodes are returned as they came, text and order unchanged; what was chosen also
    stands in ``metadata["seka"]``, a key that neither the model nor embeddings are shown.

    Raises:
        SekaLLMError: ``weight_by_score`` and a node that may be highlighted has no score, or no score is above 0.
    """

    highlighter: HighlighterField = Field(
        default="sentences",
        description="A name or a callable. Trusted(Sentences(), TrustPolicy(...)) sees each node's source and metadata.",
    )
    top_k: int | None = Field(default=None, ge=1, description="Highlight only in the nodes of the k largest scores.")
    weight_by_score: bool = Field(default=False, description="Multiply weights by score / largest score.")
    include_metadata: bool = Field(
        default=False, description="Choose in the metadata lines that the model is shown, too, not in the text alone."
    )

    def __init__(self, highlighter: str | Highlighter = "sentences", **settings: object) -> None:
        super().__init__(highlighter=highlighter, **settings)
        watch()

    @classmethod
    def class_name(cls) -> str:
        return "HighlightPostprocessor"

    def chosen_in(self, question: str, context: str) -> Marks:
        """The highlights in a context that is made of nodes from here, and what the report should say of them."""
        marks = CHOICES.find(question, context, by=self.settings)
        assert marks is not None
        return marks

    @property
    def settings(self) -> tuple[object, ...]:
        """What it chooses by; postprocessors of equal settings choose alike."""
        return chooser(self.highlighter), self.top_k, self.weight_by_score, self.include_metadata

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        choice = self._choose(nodes, query_bundle)
        CHOICES.put(choice)
        return [_annotated(node, own) for node, own in zip(nodes, choice.nodes, strict=True)]

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        choice = await asyncio.to_thread(self._choose, nodes, query_bundle)
        CHOICES.put(choice)  # here, because a thread could not leave it in this task's context
        return [_annotated(node, own) for node, own in zip(nodes, choice.nodes, strict=True)]

    def _choose(self, nodes: Sequence[NodeWithScore], query: QueryBundle | None) -> Choice:
        shown = nodes_as_shown(nodes, include_metadata=self.include_metadata)
        question = query.query_str if query else ""
        return choose_in_nodes(shown, nodes, question, self.settings, weigh=self._weights)

    def _weights(self, passages: Sequence[Passage]) -> list[float]:
        """One factor for each passage: 0 for those that are not among the best, and for blank ones."""
        best = TopK(self.top_k or max(1, len(passages)), self.weight_by_score)
        with raised_as_own():
            return [spans[0].weight if spans else 0.0 for spans in best("", passages)]


def chosen_in(
    question: str, context: str, highlighter: Highlighter, postprocessor: HighlightPostprocessor | None
) -> Marks | None:
    """The highlights in a context that is made of nodes known here; None if nothing is known of it.

    Args:
        highlighter: the model's, for nodes that no postprocessor chose in.
        postprocessor: the model's, which then alone decides.
    """
    if postprocessor is not None:
        return postprocessor.chosen_in(question, context)

    def choose(question: str, flow: Flow, context: str) -> Marks | None:
        if None not in flow.made:
            flow.made[None] = nodes_as_shown(flow.nodes)
        there = flow.made[None].standing(context)
        if there is None:
            return None

        def chosen(question: str) -> Choice:
            key = id(highlighter), question, there  # the choice holds its highlighter, so no other one gets its id
            if key not in flow.made:
                flow.made[key] = choose_in_nodes(flow.made[None], flow.nodes, question, (highlighter,), among=there)
            return flow.made[key]

        choice = chosen(question or flow.query)
        if not any(node.spans for node in choice.nodes) and question != flow.query:
            choice = chosen(flow.query)  # such as a question rewritten by a chat
        return choice.marks_in(context)

    policy = highlighter.policy if isinstance(highlighter, Trusted) else None
    return CHOICES.find(question, context, policy=policy, choose=choose)


def nodes_as_shown(nodes: Sequence[NodeWithScore], *, include_metadata: bool = False) -> Choice:
    """Nodes as the model is shown them, before anything is chosen in them."""
    texts = [_shown(n.node) for n in nodes]
    starts = [(0, text) if include_metadata else _text_in(n.node, text) for n, text in zip(nodes, texts, strict=True)]
    return Choice("", tuple(map(Prompt, texts)), bodies=tuple((start, start + len(own)) for start, own in starts))


def choose_in_nodes(
    shown: Choice,
    nodes: Sequence[NodeWithScore],
    question: str,
    by: tuple[Any, ...],
    *,
    among: Sequence[int] | None = None,
    weigh: Callable[[Sequence[Passage]], Sequence[float]] | None = None,
) -> Choice:
    """What a highlighter chooses in nodes, each with its score, source and metadata.

    Args:
        shown: the nodes, from ``nodes_as_shown``.
        by: the highlighter, and further settings that tell its choices from others.
        among: indices of the nodes to choose in; by default all.
        weigh: a factor for each passage; it is given those that may be highlighted.
    """
    there = range(len(nodes)) if among is None else among
    passages = [replace(as_passage(nodes[i]), text=shown.nodes[i].text[slice(*shown.bodies[i])]) for i in there]
    marked, warnings, distrusted = choose_spans(by[0], question, passages)
    allowed = [n for n in range(len(passages)) if n not in distrusted]
    weights = [1.0] * len(allowed) if weigh is None else weigh([passages[n] for n in allowed])
    prompts = list(shown.nodes)
    for n, weight in zip(allowed, weights, strict=True):
        start, _ = shown.bodies[there[n]]
        spans = tuple(_moved(span, start, weight) for span in marked[n] if weight > 0)
        prompts[there[n]] = Prompt(prompts[there[n]].text, spans)
    kept = frozenset(there[n] for n in distrusted)
    return replace(shown, question=question, nodes=tuple(prompts), warnings=warnings, distrusted=kept, by=by)


def _moved(span: Span, by: int, weight: float) -> Span:
    return replace(span, start=span.start + by, end=span.end + by, weight=span.weight * weight)


def _shown(node: BaseNode) -> str:
    """What a synthesizer shows the model of a node."""
    return node.get_content(metadata_mode=MetadataMode.LLM)


def _text_in(node: BaseNode, shown: str) -> tuple[int, str]:
    """Where the node's own text begins in what the model is shown of it, and that text.

    Found by writing a nonce into a copy, so metadata that copies the text is not taken for it. A node that changes
    its text has no place for a highlight.
    """
    text = node.get_content(metadata_mode=MetadataMode.NONE)

    def render(values: Mapping[str, str]) -> str:
        if values["text"] == text:
            return shown
        copy = node.model_copy()
        copy.set_content(values["text"])
        return _shown(copy)

    if not text.strip():
        return 0, ""
    try:
        (place,) = locate_values(render, {"text": text})[1]
    except (SekaError, ValueError):
        return 0, ""
    return place.start, shown[place.start : place.end]


def _annotated(node: NodeWithScore, chosen: Prompt) -> NodeWithScore:
    """A copy of the node with what was chosen in its metadata, where no model and no embedding is shown it."""
    inner = node.node
    hidden = {
        name: [*dict.fromkeys([*getattr(inner, name), KEY])]
        for name in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys")
    }
    marks = write_marks(chosen.text, chosen.spans)
    copy = inner.model_copy(update={"metadata": {**inner.metadata, KEY: marks}, **hidden})
    return node.model_copy(update={"node": copy}) if _shown(copy) == chosen.text else node
