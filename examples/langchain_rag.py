"""RAG with LangChain: the chain of every tutorial, with a model that follows what the retriever found.

Needs ``pip install 'seka-rag[langchain]'``. No network: the model is part of the package.
"""

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnablePassthrough
from langchain_seka import ChatSeka

from seka_rag import BM25Retriever, Passage

DOCUMENTS = [
    "Alec moved to Lyon last year. Alec shares a house with a parrot.",
    "Greta moved to Vienna last year. Greta plays the violin.",
    "Hugo has a flat in Lisbon. The employer of Hugo is Bluepeak.",
    "Felix speaks Danish at home. Felix keeps a tortoise.",
]
QUESTION = "Where does Alec live?"

prompt = ChatPromptTemplate.from_messages([("human", "Context: {context}\n\nQuestion: {question}")])


class Notes(BaseRetriever):
    """Any retriever of LangChain will do; this one searches by words."""

    index: BM25Retriever

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [Document(page_content=p.text, metadata={"source": p.source}) for p in self.index(query)]


def format_docs(docs: list[Document]) -> str:
    return "\n\n".join(doc.page_content for doc in docs)


def main() -> None:
    retriever = Notes(index=BM25Retriever([Passage(text, source=f"note {i}") for i, text in enumerate(DOCUMENTS)]))
    llm = ChatSeka(model="seka-demo", max_tokens=5)

    found = {"context": retriever | format_docs, "question": RunnablePassthrough()} | prompt
    chain = found | llm | StrOutputParser()
    plain = found | llm.bind(highlight="off") | StrOutputParser()

    print("Question:", QUESTION)
    print("Plain:   ", plain.invoke(QUESTION))  # what the model remembers about Alec
    print("Steered: ", chain.invoke(QUESTION))  # what the notes say

    print("Streamed:", end=" ")
    for piece in chain.stream(QUESTION):
        print(piece, end="", flush=True)
    print()

    report = (found | llm).invoke(QUESTION).response_metadata["seka"]
    print("Highlighted:", [(h["source"], h["start"], h["end"]) for h in report["highlights"]])


if __name__ == "__main__":
    main()
