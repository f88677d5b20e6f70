# %% [markdown]
# # LangChain
#
# Replace the model of a chain by `ChatSeka`; nothing else changes. It listens
# to the retriever, finds its documents in the prompt and highlights the
# sentences that bear on the question. The documents are Python's language
# reference (what is quoted of it is © Python Software Foundation).

# %%
import re
import tempfile
import warnings
from pathlib import Path
from pydoc_data.topics import topics

from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from langchain_seka import ChatSeka, HighlightPrompt
from seka_rag import BM25Retriever, read_documents
from seka_rag.retrieval.split import split
from seka_rag.views import show


def plain_text(text):
    """Without underlines of titles, and paragraphs on one line."""
    text = re.sub(r"^[*=~^\-]{3,}$", "", text, flags=re.M)
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


folder = Path(tempfile.mkdtemp())
for name, text in topics.items():
    (folder / f"{name}.txt").write_text(plain_text(text), encoding="utf-8")


class Reference(BaseRetriever):
    """Any retriever of LangChain will do; this one needs no embeddings."""

    index: BM25Retriever

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [
            Document(
                p.text,
                metadata={
                    "source": Path(p.source).stem,
                    "relevance_score": p.score,
                },
            )
            for p in self.index(query)
        ]


retriever = Reference(
    index=BM25Retriever(split(read_documents(folder), max_chars=400), k=6)
)

# %% [markdown]
# ## A chain
#
# By default the sentences that share words with the question are highlighted.
# A language reference uses the same words everywhere, so that would be half
# of the text. `top_k` highlights the passage that the retriever scored best.


# %%
def format_docs(docs):
    return "\n\n".join(doc.page_content for doc in docs)


prompt = ChatPromptTemplate.from_messages(
    [("human", "Context:\n{context}\n\nQuestion: {question}\nAnswer:")]
)
TOKENS = 32  # size
llm = ChatSeka(model="smollm2", max_tokens=TOKENS, highlighter="top_k")
found = {
    "context": retriever | format_docs,
    "question": RunnablePassthrough(),
} | prompt
chain = found | llm

question = "What happens when a pass statement is executed?"
message = chain.invoke(question)
print(message.content)

# %% [markdown]
# The report is in the message. It says where the highlights are and from
# which source, without any text:

# %%
report = message.response_metadata["seka"]
for span in report["highlights"]:
    print(
        "message {message}, characters {start} to {end}, "
        "weight {weight}, from {source}".format(**span)
    )
print(
    report["method"], report["gain"], "tokens edited:", report["tokens_edited"]
)

# %% [markdown]
# The plain model is one option away. Side by side, with the prompt as the
# model saw it:

# %%
plain = (found | llm.bind(steering=None)).invoke(question)
roles = {"human": "user", "ai": "assistant"}
messages = [
    {"role": roles.get(m.type, m.type), "content": m.content}
    for m in found.invoke(question).to_messages()
]
show(
    message.content,
    messages,
    report=report,
    plain=plain.content,
    title=question,
)

# %% [markdown]
# ## Citations
#
# What the answer rests on is read from the attention that was paid to the
# passages while it was written. The annotations are LangChain's own:

# %%
cited = (found | llm.bind(citations="text")).invoke(question)
for citation in cited.content_blocks[0]["annotations"]:
    extras = citation["extras"]
    print(f"{extras['source']}, share {extras['share']:.2f}:")
    print(
        "   answer ",
        cited.text[citation["start_index"] : citation["end_index"]],
    )
    print("   passage", citation["cited_text"])

# %% [markdown]
# ## Streaming and batches

# %%
for chunk in chain.stream(question):
    print(chunk.content, end="", flush=True)
print()
for text, reply in zip(
    batch := [
        "What does the pass statement do?",
        "What is a lambda expression?",
    ],
    chain.batch(batch),
):
    print(
        text,
        "->",
        " ".join(reply.content.split())[:90],
        "| edited:",
        reply.response_metadata["seka"]["tokens_edited"],
    )

# %% [markdown]
# ## When nothing is marked
#
# If the chain rewrites the passages, they cannot be followed into the prompt.
# Nothing is guessed: the model answers plainly, the report says why, and a
# warning tells you once. `on_unmarked="raise"` makes it an error.

# %%
shout = {
    "context": retriever | format_docs | RunnableLambda(str.upper),
    "question": RunnablePassthrough(),
} | prompt
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    reply = (shout | llm).invoke(question)
print(reply.response_metadata["seka"]["tokens_edited"], "tokens edited")
print(*reply.response_metadata["seka"]["warnings"], sep="\n")
print(*{type(w.message).__name__ for w in caught})

# %% [markdown]
# Where the way of the passages is your own, say what they are:
# `HighlightPrompt` takes the documents themselves.

# %%
template = HighlightPrompt(
    prompt=prompt, variables=["context"], highlighter="top_k"
)
reply = (template | llm).invoke(
    {"context": retriever.invoke(question), "question": question}
)
print(reply.content)
print(reply.response_metadata["seka"]["tokens_edited"], "tokens edited")

# %% [markdown]
# ## Agents
#
# Tool output is text that others wrote, so it is highlighted only for tools
# that you name: `SekaMiddleware(tools=[...])` in `create_agent`. That needs a
# model whose chat template writes tool calls, and this one's does not:

# %%
print(llm.engine.can_call_tools)

# %% [markdown]
# An agent can still retrieve: a middleware looks for passages each time before
# the model is called, and the template marks them.


# %%
@wrap_model_call
def with_passages(request, handler):
    """The last message, with the passages that were found for it."""
    *before, last = request.messages
    values = {"context": retriever.invoke(last.text), "question": last.text}
    asked = template.invoke(values).to_messages()
    return handler(request.override(messages=[*before, *asked]))


agent = create_agent(llm, tools=[], middleware=[with_passages])
reply = agent.invoke({"messages": [("human", question)]})["messages"][-1]
print(reply.content)
print(reply.response_metadata["seka"]["tokens_edited"], "tokens edited")
