"""The demo's conflicts through a chain: as many answers follow the evidence as without a framework."""

from __future__ import annotations

import re
from operator import itemgetter

import pytest
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnablePassthrough
from langchain_seka import ChatSeka

from seka_rag import Passage, Prompt, Seka, Span
from seka_rag.demo.trials import Trial, ask, make_trials
from seka_rag.highlight.registry import as_highlighter

TRIALS = [t for t in make_trials("conflict", 80, "development", first_seed=5) if t.chat][:30]
SENTENCE = re.compile(r"[A-Z][^.\n:?]*\.")
PROMPT = ChatPromptTemplate.from_messages([("human", "{head}{context}{tail}")])


class Statements(BaseRetriever):
    """The statements of a trial, each a document; or the one that is the evidence."""

    trial: Trial
    evidence_only: bool

    def _get_relevant_documents(self, query, *, run_manager):
        _, context, _ = parts(self.trial, self.evidence_only)
        texts = [context] if self.evidence_only else SENTENCE.findall(context)
        return [Document(page_content=t) for t in texts]


def parts(trial, evidence_only):
    """What stands before the statements, the statements, and what stands behind them."""
    text, span = trial.text, trial.evidence
    if evidence_only:
        return text[: span.start], text[span.start : span.end], text[span.end :]
    sentences = list(SENTENCE.finditer(text))
    start, end = sentences[0].start(), sentences[-1].end()
    return text[:start], text[start:end], text[end:]


def through_a_chain(model, evidence_only):
    answers = []
    for trial in TRIALS:
        head, context, tail = parts(trial, evidence_only)
        found = itemgetter("question") | Statements(trial=trial, evidence_only=evidence_only)
        chain = RunnablePassthrough.assign(found=found, context=lambda _, c=context: c) | PROMPT | model
        answers.append(chain.invoke({"question": question(trial), "head": head, "tail": tail}).content.strip())
    return answers


@pytest.fixture(scope="module")
def core(demo_engine):
    return ask(demo_engine, TRIALS, Seka(gain=demo_engine.bank.suggested_gain))


def test_the_same_evidence_gives_the_same_answers(demo_engine, core):
    model = ChatSeka(steered_model=demo_engine, max_tokens=3, highlighter="all")
    assert through_a_chain(model, evidence_only=True) == core


def test_the_default_highlighter_chooses_as_without_a_chain(demo_engine):
    model = ChatSeka(steered_model=demo_engine, max_tokens=3)
    prompts = []
    for trial in TRIALS:
        found = list(SENTENCE.finditer(trial.text))
        own = as_highlighter("sentences")(question(trial), [Passage(m.group()) for m in found])
        placed = [(m.start(), s) for m, some in zip(found, own, strict=True) for s in some]
        spans = [Span(at + s.start, at + s.end, s.weight) for at, s in placed]
        prompts.append(demo_engine.tokenize_chat([{"role": "user", "content": Prompt(trial.text, tuple(spans))}]))
    core = [g.text.strip() for g in demo_engine.generate(prompts, max_new_tokens=3)]
    chosen = through_a_chain(model, False)
    assert chosen == core
    plain = through_a_chain(model.bind(highlight="off"), False)
    assert right(chosen) > right(plain) + 3


def right(answers):
    return sum(a == t.answer for a, t in zip(answers, TRIALS, strict=True))


def question(trial):
    return re.findall(r"[^.\n:]*\?", trial.text)[0].strip()
