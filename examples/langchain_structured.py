"""A structured answer with citations: a city, and the numbers of the notes that it comes from.

Needs ``pip install 'seka-rag[langchain,structured]'``. No network: the model is part of the package. Decoding is held to
the schema, so the answer always has this form. The built-in model was never taught to write JSON: its values mean
nothing here. Take an instruct model (``ChatSeka(model=..., bank=...)``) for right ones.
"""

from typing import Literal

from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_rag import DOCUMENTS, QUESTION, Notes
from langchain_seka import ChatSeka
from pydantic import BaseModel, Field

from seka_rag import BM25Retriever, Passage


class Home(BaseModel):
    """Where somebody lives."""

    city: Literal["Lyon", "Vienna", "Lisbon", "Dublin"]
    notes: list[Literal[0, 1, 2, 3]] = Field(description="numbers of the notes that say so", min_length=1, max_length=2)


prompt = ChatPromptTemplate.from_messages([("human", "Context: {context}\n\nQuestion: {question}")])


def main() -> None:
    retriever = Notes(index=BM25Retriever([Passage(text, source=str(i)) for i, text in enumerate(DOCUMENTS)]))
    model = ChatSeka(model="seka-demo", max_tokens=60)
    answers = model.with_structured_output(Home, method="json_schema", include_raw=True)
    numbered = retriever | (lambda docs: "\n".join(f"[{d.metadata['source']}] {d.page_content}" for d in docs))
    result = ({"context": numbered, "question": RunnablePassthrough()} | prompt | answers).invoke(QUESTION)
    print("Question:   ", QUESTION)
    print("Answer:     ", result["parsed"])
    report = result["raw"].response_metadata["seka"]
    print("Highlighted:", sorted({h["source"] for h in report["highlights"]}))


if __name__ == "__main__":
    main()
