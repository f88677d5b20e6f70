"""Ways in which chains write passages down: the highlight is followed, or the report tells why it is not."""

from __future__ import annotations

import html
import json

import pytest
from langchain_chains import Facts, ask, documents, join
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough

QUESTION = ask("Astrid")
TEMPLATE = ChatPromptTemplate.from_messages([("human", "Context:\n{context}\n\nQuestion: {question}")])
LOOP = "{% for d in context %}[{{ loop.index }}] {{ d.page_content }}\n{% endfor %}Question: {{ question }}"
FORMATS = {
    "html": lambda found: html.escape(join(found)),
    "json": lambda found: json.dumps([d.page_content for d in found]),
    "json in quotes": lambda found: json.dumps({"said": f'He said: "{found[0].page_content}"'}),
    "quoted": lambda found: "\n".join(f"> {line}" for line in join(found).splitlines()),
    "bullets": lambda found: "\n".join(f"* {d.page_content}" for d in found),
    "numbers": lambda found: "\n".join(f"{i}) {d.page_content}" for i, d in enumerate(found)),
    "upper case": lambda found: join(found).upper(),
    "loop": list,
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore::seka_rag.frameworks.UnmarkedWarning")
def test_a_passage_is_followed_or_the_report_says_why_not(chat, name):
    prompt = (
        ChatPromptTemplate.from_messages([("human", LOOP)], template_format="jinja2") if name == "loop" else TEMPLATE
    )
    given = []
    asking = {"context": Facts() | FORMATS[name], "question": RunnablePassthrough()} | prompt
    message = (asking | (lambda value: given.append(value.to_messages()) or value) | chat).invoke(QUESTION)
    report = message.response_metadata["seka"]
    texts = [given[0][h["message"]].content[h["start"] : h["end"]] for h in report["highlights"]]
    known = [d.page_content for d in documents(QUESTION)]
    assert all(any(text in passage for passage in known) for text in texts)  # no character of anything else
    if not texts:
        assert any("could not be followed into this prompt" in warning for warning in report["warnings"])
    if name in ("json", "quoted", "bullets", "numbers", "html"):
        assert texts
    if name == "upper case":
        assert not texts
