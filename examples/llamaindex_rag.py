"""A LlamaIndex query engine whose model follows the retrieved evidence, plain and steered, on a laptop without network.

    pip install 'seka-rag[llamaindex]'
    python examples/llamaindex_rag.py

The built-in demo model learned that Alec lives in Dublin. The documents say Lyon.
"""

from __future__ import annotations

import re
import zlib

from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.schema import TextNode
from llama_index.llms.seka import SekaLLM, collect_reports

QUESTION = "Which city is the home of Alec?"
DOCUMENTS = {
    "harbour.txt": "The harbour is busy in summer. The home of Alec is in Lyon. The letter arrived in the spring.",
    "library.txt": "Paula wrote a book on botany. Paula has a contract with Oakfield.",
    "market.txt": "The market opens early on Monday. By trade, Cyril is a baker. Cyril plays the clarinet.",
}


class WordEmbedding(BaseEmbedding):
    """Counts of words, hashed to 256 places: enough for a few documents, and nothing to download."""

    def _embed(self, text: str) -> list[float]:
        vector = [0.0] * 256
        for word in re.findall(r"\w+", text.lower()):
            vector[zlib.crc32(word.encode()) % len(vector)] += 1.0
        return vector

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._embed(query)


def main(llm: SekaLLM | None = None) -> None:
    llm = llm or SekaLLM(model="seka-demo", max_tokens=8)
    # LlamaIndex counts tokens to pack the context. Without this it would use, and may download, another model's tokenizer.
    Settings.tokenizer = llm.engine.tokenizer.tokenize

    nodes = [
        # the file's name is for us: the demo model knows only a small world of words
        TextNode(text=text, metadata={"file_path": name}, excluded_llm_metadata_keys=["file_path"])
        for name, text in DOCUMENTS.items()
    ]
    index = VectorStoreIndex(nodes, embed_model=WordEmbedding())

    plain = llm.model_copy(update={"steering": None})
    print("question:", QUESTION)
    print("plain:   ", index.as_query_engine(llm=plain, similarity_top_k=2).query(QUESTION))

    with collect_reports() as reports:
        print("steered: ", index.as_query_engine(llm=llm, similarity_top_k=2).query(QUESTION))

    streaming = index.as_query_engine(llm=llm, similarity_top_k=2, streaming=True).query(QUESTION)
    print("streamed: ", end="")
    for piece in streaming.response_gen:
        print(piece, end="", flush=True)
    print()

    for report in reports:
        print(f"{report['method']} with gain {report['gain']:g}: {report['tokens_edited']} tokens in", end=" ")
        print(f"{report['heads']} heads of layers {report['layers']}; warnings: {report['warnings'] or 'none'}")
        for span in report["highlights"]:
            print("  highlighted: message {message}, characters {start} to {end}, from {source}".format(**span))


if __name__ == "__main__":
    main()
