# %% [markdown]
# # LlamaIndex
#
# Replace the LLM; keep the engine. The documents are Python's language
# reference (what is quoted of it is © Python Software Foundation).

# %%
import re
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

from llama_index.core import PromptTemplate, Settings
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.query_engine import (
    RetrieverQueryEngine,
    SubQuestionQueryEngine,
)
from llama_index.core.question_gen.types import (
    BaseQuestionGenerator,
    SubQuestion,
)
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import QueryEngineTool
from llama_index.llms.seka import (
    HighlightedNodes,
    HighlightPostprocessor,
    SekaLLM,
    collect_reports,
)

from seka_rag import BM25Retriever, TopK, read_documents
from seka_rag.retrieval.split import split


def plain_text(text):
    """Without underlines of titles, and paragraphs on one line."""
    text = re.sub(r"^[*=~^\-]{3,}$", "", text, flags=re.M)
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


folder = Path(tempfile.mkdtemp())
for name, text in topics.items():
    (folder / f"{name}.txt").write_text(plain_text(text), encoding="utf-8")


class Reference(BaseRetriever):
    """Any index of LlamaIndex will do; this one needs no embeddings."""

    def __init__(self, k: int = 4) -> None:
        self.index = BM25Retriever(
            split(read_documents(folder), max_chars=400), k=k
        )
        super().__init__()

    def _retrieve(self, query_bundle):
        return [
            NodeWithScore(
                node=TextNode(
                    text=p.text,
                    metadata={"file_path": Path(p.source).name},
                    excluded_llm_metadata_keys=[
                        "file_path"
                    ],  # for us, not for the model
                ),
                score=p.score,
            )
            for p in self.index(query_bundle.query_str)
        ]


# %% [markdown]
# ## A query engine
#
# The postprocessor chooses in the nodes, so that each highlight knows its
# source. It takes the node that the retriever scored
# best. Without it the highlighter chooses in the context as the template
# places it.

# %%
chosen = HighlightPostprocessor(TopK())
TOKENS = 32  # size
llm = SekaLLM(model="smollm2", max_tokens=TOKENS, highlighter=chosen)
# LlamaIndex counts tokens with it when it packs the context
Settings.tokenizer = llm.engine.tokenizer.tokenize
template = PromptTemplate(
    "Context:\n{context_str}\n\nQuestion: {query_str}\nAnswer:"
)


def engine_of(llm):
    return RetrieverQueryEngine.from_args(
        Reference(),
        llm=llm,
        node_postprocessors=[chosen],
        text_qa_template=template,
        response_mode="compact",
    )


question = "What happens when a pass statement is executed?"
engine = engine_of(llm)
with collect_reports() as reports:
    response = engine.query(question)
plain = engine_of(llm.model_copy(update={"steering": None})).query(question)
print("plain:  ", str(plain).strip())
print("steered:", str(response).strip())

# %%
(report,) = reports
print(
    report["method"], report["gain"], "tokens edited:", report["tokens_edited"]
)
HighlightedNodes(response)

# %% [markdown]
# ## Citations
#
# What the answer rests on is read from the attention that was paid to the
# nodes while it was written:

# %%
citing = engine_of(llm.model_copy(update={"citations": "text"}))
answer = citing.query(question)
for citation in answer.metadata["seka"]["reports"][-1]["citations"]:
    start, end = citation["answer_start"], citation["answer_end"]
    print(f"{citation['source']}, share {citation['share']:.2f}:", citation)
    print("   answer ", str(answer)[start:end])

# %% [markdown]
# ## A chat engine
#
# The conversation itself is not highlighted; the retrieved context is.

# %%
chat = ContextChatEngine.from_defaults(
    retriever=Reference(k=2), llm=llm, node_postprocessors=[chosen]
)
with collect_reports() as reports:
    for text in (
        "What does the pass statement do?",
        "And the break statement?",
    ):
        print(text, "->", " ".join(str(chat.chat(text)).split()))
print([report["tokens_edited"] for report in reports], "tokens edited")

# %% [markdown]
# ## Sub-questions
#
# A question about two things is split, each part is answered over its own
# passages, and the answers are put together. A model of this size cannot
# split a question, so here that is done by hand. The parts are steered by the
# reference's passages; the last step reads what the model itself wrote, and
# nobody vouches for that: it is not highlighted.


# %%
class ByHand(BaseQuestionGenerator):
    def generate(self, tools, query):
        return [
            SubQuestion(sub_question=part, tool_name="reference")
            for part in PARTS
        ]

    async def agenerate(self, tools, query):
        return self.generate(tools, query)

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass


PARTS = [
    "What does the break statement do?",
    "What does the continue statement do?",
]
tool = QueryEngineTool.from_defaults(
    engine, name="reference", description="Python's language reference"
)
parts = SubQuestionQueryEngine.from_defaults(
    [tool], llm=llm, question_gen=ByHand(), verbose=False, use_async=False
)
with collect_reports() as reports:
    response = parts.query("How do break and continue differ?")
for node in response.source_nodes[: len(PARTS)]:
    print(" ".join(node.get_content().split()))
print("together:", " ".join(str(response).split()))
print([report["tokens_edited"] for report in reports], "tokens edited")
