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
from llama_index.llms.seka.errors import SekaLLMError
from llama_index.llms.seka.flow import Flow, watch

from seka_rag import Passage, Prompt, SekaError, Span, Trusted
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
        SekaLLMError: ``weight_by_score`` and a node has no score, or no score is above 0.
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
        question = query.query_str if query else ""
        return choose_in_nodes(
            nodes, question, self.settings, weigh=self._weights, include_metadata=self.include_metadata
        )

    def _weights(self, passages: Sequence[Passage]) -> list[float]:
        """One factor for each node: 0 for those that are not among the best."""
        scores = [p.score for p in passages]
        weights = [1.0] * len(passages)
        if self.weight_by_score and passages:
            top = max((s for s in scores if s is not None), default=0.0)
            if None in scores or top <= 0:
                raise SekaLLMError("weight_by_score=True, but a node has no score, or none is above 0")
            weights = [min(1.0, max(0.0, (s or 0.0) / top)) for s in scores]
        if self.top_k is not None:
            best = sorted(range(len(scores)), key=lambda i: (scores[i] is None, -(scores[i] or 0.0)))[: self.top_k]
            weights = [w if i in best else 0.0 for i, w in enumerate(weights)]
        return weights


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

    def choose(question: str, flow: Flow) -> Choice:
        key = id(highlighter), question or flow.query
        if key not in flow.made:
            choice = choose_in_nodes(flow.nodes, question or flow.query, (highlighter,))
            if not any(node.spans for node in choice.nodes) and question != flow.query:
                choice = choose_in_nodes(
                    flow.nodes, flow.query, (highlighter,)
                )  # such as a question rewritten by a chat
            flow.made[key] = choice
        return flow.made[key]

    policy = highlighter.policy if isinstance(highlighter, Trusted) else None
    return CHOICES.find(question, context, policy=policy, choose=choose)


def choose_in_nodes(
    nodes: Sequence[NodeWithScore],
    question: str,
    by: tuple[Any, ...],
    *,
    weigh: Callable[[Sequence[Passage]], Sequence[float]] | None = None,
    include_metadata: bool = False,
) -> Choice:
    """What a highlighter chooses in nodes, each with its score, source and metadata.

    Args:
        by: the highlighter, and further settings that tell its choices from others.
        weigh: a factor for each node.
    """
    shown = [(_shown(n.node), n) for n in nodes]
    passages = [as_passage(n) for n in nodes]
    places = [(0, text) if include_metadata else _text_in(n.node, text) for text, n in shown]
    passages = [replace(p, text=text) for p, (_, text) in zip(passages, places, strict=True)]
    marked, warnings, distrusted = choose_spans(by[0], question, passages)
    weights = [1.0] * len(passages) if weigh is None else weigh(passages)
    texts = tuple(
        Prompt(text, tuple(_moved(span, start, weight) for span in spans if weight > 0))
        for (text, _), (start, _), spans, weight in zip(shown, places, marked, weights, strict=True)
    )
    bodies = tuple((start, start + len(text)) for start, text in places)
    return Choice(question, texts, warnings, distrusted, by, bodies)


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
