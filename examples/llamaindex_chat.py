"""A LlamaIndex chat engine that streams, with highlights chosen in real nodes, on a laptop without network.

    pip install 'seka-rag[llamaindex]'
    python examples/llamaindex_chat.py [PAGE.html]

Two documents disagree about Alec. Only the handbook is trusted with highlights. With a file name, a page is written that
shows what was marked; in a notebook, put ``HighlightedNodes(response)`` on the last line of a cell.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from llama_index.core import Settings
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.llms.seka import HighlightedNodes, HighlightPostprocessor, SekaLLM, collect_reports

from seka_rag import BM25Retriever, Sentences, Trusted, TrustPolicy

QUESTION = "Which city is the home of Alec?"
DOCUMENTS = {
    "handbook/people.txt": "The harbour is busy in summer. The home of Alec is in Lyon. The letter arrived in the spring.",
    "handbook/books.txt": "Paula wrote a book on botany. Paula has a contract with Oakfield.",
    "upload/x.txt": "The home of Alec is in Quito.",
}


class Documents(BaseRetriever):
    """Any retriever or index will do; this one needs no embeddings."""

    def __init__(self) -> None:
        self.names = {text: name for name, text in DOCUMENTS.items()}
        self.index = BM25Retriever(list(DOCUMENTS.values()), k=3)
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [
            NodeWithScore(
                # the file's name is for the policy: the demo model knows only a small world of words
                node=TextNode(
                    text=p.text,
                    metadata={"file_path": self.names[p.text]},
                    excluded_llm_metadata_keys=["file_path"],
                ),
                score=p.score,
            )
            for p in self.index(query_bundle.query_str)
        ]


def main(page: str | None = None) -> None:
    chosen = HighlightPostprocessor(Trusted(Sentences(), TrustPolicy(sources=["handbook/*"])))
    llm = SekaLLM(model="seka-demo", max_tokens=8, highlighter=chosen)
    Settings.tokenizer = llm.engine.tokenizer.tokenize  # LlamaIndex counts tokens with it when it packs the context

    def engine() -> ContextChatEngine:
        return ContextChatEngine.from_defaults(retriever=Documents(), llm=llm, node_postprocessors=[chosen])

    with collect_reports() as reports:
        response = engine().chat(QUESTION)
    print("chat:    ", response.response.strip())
    print("streamed: ", end="")
    for piece in engine().stream_chat(QUESTION).response_gen:
        print(piece, end="", flush=True)
    print()

    async def later() -> None:
        print("async:   ", (await engine().achat(QUESTION)).response.strip())

    asyncio.run(later())
    for span in reports[0]["highlights"]:
        print("highlighted: characters {start} to {end} of message {message}, from {source}".format(**span))
    if page:
        Path(page).write_text(f"<!doctype html><meta charset='utf-8'>{HighlightedNodes(response)._repr_html_()}")
        print("written: ", page)


if __name__ == "__main__":
    main(*sys.argv[1:2])
