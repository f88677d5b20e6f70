"""An agent that asks its notes. What tools return is highlighted for tools that are named only.

    pip install 'seka-rag[llamaindex,structured]'
    python examples/llamaindex_agent.py                            # the demo model: the first call has to be forced
    python examples/llamaindex_agent.py Qwen/Qwen3-4B my-bank      # a model that chooses its calls

The demo model was never taught to call tools. Forcing shows the way through the agent, not the model's judgement.
"""

from __future__ import annotations

import asyncio
import sys

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.tools import FunctionTool
from llama_index.llms.seka import SekaLLM, collect_reports

NOTES = "The harbour is busy in summer. The home of Alec is in Lyon. The letter arrived in the spring."


def people() -> str:
    """Notes on people and where they live."""
    return NOTES


async def main(model: str = "seka-demo", bank: str = "auto") -> None:
    llm = SekaLLM(model=model, bank=bank, max_tokens=60, highlight_tools=["people"])
    tools = [FunctionTool.from_defaults(people)]
    agent = FunctionAgent(tools=tools, llm=llm, initial_tool_choice="people" if model == "seka-demo" else None)
    with collect_reports() as reports:
        answer = await agent.run("Which city is the home of Alec?")
    for call in answer.tool_calls:
        print("called:     ", call.tool_name, call.tool_kwargs)
    for report in reports:
        sources = [span["source"] for span in report["highlights"]] or "nothing"
        print(f"highlighted: {sources}, {report['tokens_edited']} tokens edited")
    print("answer:     ", str(answer).strip())
    if model == "seka-demo":
        print("note:        the call was forced, and this tiny model's answer after a tool turn means nothing.")
        print("shown:       the way through the agent; the highlight is found in the tool's text")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
