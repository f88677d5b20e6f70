"""Agentic RAG: ``create_agent`` with a retriever tool whose documents are highlighted for the answer.

Needs ``pip install 'seka-rag[langchain,structured]' langchain``. No network: the model is part of the package. It is far
too small to decide for a tool by itself, so its first turn is made to be a call; leave ``FirstCall`` out with an
instruct model (``ChatSeka(model=..., bank=...)``).
"""

from typing import Any, Literal

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_rag import DOCUMENTS
from langchain_seka import ChatSeka, SekaMiddleware


@tool(response_format="content_and_artifact")
def look_up(person: Literal["Alec", "Greta", "Hugo", "Felix"]) -> tuple[str, list[Document]]:
    """Look somebody up in the notes."""
    found = [Document(text, metadata={"source": f"note {i}"}) for i, text in enumerate(DOCUMENTS) if person in text]
    return "\n\n".join(d.page_content for d in found), found


class FirstCall(AgentMiddleware):
    """A call of the tool until there is an answer from it."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        answered = any(isinstance(m, ToolMessage) for m in request.messages)
        return handler(request.override(tool_choice="none" if answered else "look_up"))


def main() -> None:
    agent = create_agent(
        ChatSeka(model="seka-demo", max_tokens=60),
        [look_up],
        middleware=[FirstCall(), SekaMiddleware(tools=["look_up"], highlighter="all")],
    )
    result = agent.invoke({"messages": [HumanMessage("Where does Alec live?")]})
    for message in result["messages"]:
        calls = [f"{c['name']}({c['args']})" for c in getattr(message, "tool_calls", [])]
        print(f"{message.type:6}", *calls, message.content)
    report = result["messages"][-1].response_metadata["seka"]
    print("Highlighted:", [(h["source"], h["start"], h["end"]) for h in report["highlights"]])
    print("Note: this tiny model's call was forced, and neither its arguments nor its answer mean anything.")
    print("What is shown is the way through the agent: the documents are found and highlighted in the tool's text.")


if __name__ == "__main__":
    main()
