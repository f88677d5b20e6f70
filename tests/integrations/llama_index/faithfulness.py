"""The demo's memory conflicts through a query engine, beside the core on the same passages.

python tests/integrations/llama_index/faithfulness.py [--n 300]
"""

from __future__ import annotations

import argparse

import numpy as np
from llama_index.core import Settings
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.llms.seka import HighlightPostprocessor, SekaLLM

from seka_rag import SteeredModel
from seka_rag.bench.rates import Rate
from seka_rag.demo import words, world
from seka_rag.demo.world import Fact
from seka_rag.questions.pairs import mcnemar
from seka_rag.rag import Rag
from seka_rag.text.passages import TEMPLATE

Trial = tuple[str, list[str], str]


def conflicts(n: int, statements: int = 6) -> list[Trial]:
    """Question, passages and what they say: one contradicts memory, the others are about people nobody asked for."""
    rng, trials = np.random.default_rng(77), []
    held = np.array([p for p in range(len(words.NAMES)) if world.held_out_person(p)])
    while len(trials) < n:
        memory = world.remembered(rng, held[held < world.KNOWN])
        said = Fact(memory.person, memory.relation, world.random_value(rng, memory.person, training=False))
        if said.value == memory.value:
            continue
        strangers = rng.permutation(held[held >= world.KNOWN])[: statements - 1]
        facts = [
            Fact(int(p), int(rng.integers(world.N_RELATIONS)), world.random_value(rng, int(p), training=False))
            for p in strangers
        ]
        facts.insert(int(rng.integers(statements)), said)
        trials.append((said.question(rng), [fact.sentence(rng) for fact in facts], said.answer))
    return trials


class Given(BaseRetriever):
    """Finds what it was given."""

    def __init__(self, passages: list[str]) -> None:
        self.passages = passages
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(text=text), score=1.0) for text in self.passages]


def core(model: SteeredModel, trials: list[Trial]) -> list[bool]:
    """Whether the core's answers are those of the passages."""
    return [Rag(model, lambda q, p=p: p).answer(q, max_new_tokens=3).text == a for q, p, a in trials]


def query_engine(llm: SekaLLM, trials: list[Trial], *, own_template: bool, postprocess: bool = False) -> list[bool]:
    """Whether a query engine's are; with the core's template, or with LlamaIndex's own."""
    template = PromptTemplate(TEMPLATE.replace("{context}", "{context_str}").replace("{question}", "{query_str}"))
    right = []
    for question, passages, answer in trials:
        chosen = [HighlightPostprocessor()] if postprocess else []
        engine = RetrieverQueryEngine.from_args(
            Given(passages),
            llm=llm.model_copy(update={"highlighter": chosen[0]}) if postprocess else llm,
            text_qa_template=None if own_template else template,
            node_postprocessors=chosen,
        )
        right.append(str(engine.query(question)).strip() == answer)
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=300)
    trials = conflicts(parser.parse_args().n)
    llm = SekaLLM(model="seka-demo", max_tokens=3)
    Settings.tokenizer = llm.engine.tokenizer.tokenize
    plain = llm.model_copy(update={"steering": None})
    base = core(llm.engine, trials)
    rows = {
        "core, Rag": base,
        "query engine, the core's template": query_engine(llm, trials, own_template=False),
        "the same with HighlightPostprocessor": query_engine(llm, trials, own_template=False, postprocess=True),
        "query engine, LlamaIndex's template": query_engine(llm, trials, own_template=True),
        "query engine, the core's template, plain": query_engine(plain, trials, own_template=False),
        "query engine, LlamaIndex's template, plain": query_engine(plain, trials, own_template=True),
    }
    for name, right in rows.items():
        print(f"| {name} | {Rate.of(right)} | {mcnemar(base, right):.3f} |")


if __name__ == "__main__":
    main()
