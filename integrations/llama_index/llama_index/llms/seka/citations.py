"""The retrieved nodes that stand in a context, and citations of them as LlamaIndex has them: blocks of the answer."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.base.llms.types import CitationBlock, TextBlock
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.llms.seka.flow import current_flow

from seka_rag.frameworks import Citable, Cited, CitedDocument, as_passage, mover, place_passages


def nodes_in(context: str) -> Citable:
    """The nodes that this task or thread retrieved, where their own text stands in a context; not their metadata."""
    nodes = [found.node for found in current_flow().nodes]
    texts = [node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
    citable = Citable()
    for k, here in place_passages(texts, context).items():
        citable = citable.add(_document(nodes[k], texts[k]), texts[k], 0, mover(here))
    return citable


def _document(node: BaseNode, text: str) -> CitedDocument:
    """The document that a node was cut out of, if it says where; else the node itself."""
    start, end = getattr(node, "start_char_idx", None), getattr(node, "end_char_idx", None)
    known = node.ref_doc_id is not None and start is not None and end is not None and end - start == len(text)
    own = node.ref_doc_id if known else node.node_id
    return CitedDocument.of(own, as_passage(node).source, node.metadata, start if known else 0)


def citation_blocks(cited: Sequence[Cited]) -> list[CitationBlock]:
    """What an answer rests on, the best first; without their text where that is not asked for."""
    blocks = []
    for own in cited:
        record = own.record()
        places = {name: record[name] for name in ("start", "end", "answer_start", "answer_end")}
        blocks.append(
            CitationBlock(
                cited_content=TextBlock(text=own.text or ""),
                source=own.document.id or own.document.source or "",
                title=own.document.title or own.document.source or "",
                additional_location_info=places,
            )
        )
    return blocks
