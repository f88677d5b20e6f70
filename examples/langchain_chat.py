"""A chat with sources: the answer is streamed, and the last chunk says what was highlighted for it.

Needs ``pip install 'seka-rag[langchain]'``. No network: the model is part of the package.
"""

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_rag import DOCUMENTS, Notes, format_docs
from langchain_seka import ChatSeka

from seka_rag import BM25Retriever, Passage

prompt = ChatPromptTemplate.from_messages(
    [MessagesPlaceholder("history"), ("human", "Context: {context}\n\nQuestion: {question}")]
)


def main() -> None:
    retriever = Notes(index=BM25Retriever([Passage(text, source=f"note {i}") for i, text in enumerate(DOCUMENTS)]))
    found = RunnableLambda(lambda turn: turn["question"]) | retriever | format_docs
    chain = RunnablePassthrough.assign(context=found) | prompt | ChatSeka(model="seka-demo", max_tokens=5)

    history: list[BaseMessage] = []
    for question in ("Where does Alec live?", "Where does Greta live?"):
        print("You:   ", question)
        print("Model: ", end="")
        answer = None
        for chunk in chain.stream({"question": question, "history": history}):
            print(chunk.content, end="", flush=True)
            answer = chunk if answer is None else answer + chunk
        sources = sorted({h["source"] for h in answer.response_metadata["seka"]["highlights"]})
        print(f"   (highlighted: {', '.join(sources)})")
        history += [HumanMessage(question), AIMessage(answer.content)]


if __name__ == "__main__":
    main()
