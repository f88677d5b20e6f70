"""Through a query engine the demo model follows its evidence as it does in the core: the same prompt, the same answer."""

from __future__ import annotations

import pytest
from faithfulness import conflicts, core, query_engine
from llama_index.llms.seka import SekaLLM

N = 12


@pytest.fixture(scope="module")
def demo() -> SekaLLM:
    return SekaLLM(model="seka-demo", max_tokens=3)


def test_conflicts_through_the_query_engine(demo):
    trials = conflicts(N)
    base = core(demo.engine, trials)
    assert query_engine(demo, trials, own_template=False) == base
    assert query_engine(demo, trials, own_template=False, postprocess=True) == base
    plain = query_engine(demo.model_copy(update={"steering": None}), trials, own_template=False)
    assert sum(base) > sum(plain)
    # 300 questions: .77 and .79, see the docs; with 12, two more or fewer are noise
    assert abs(sum(query_engine(demo, trials, own_template=True)) - sum(base)) <= 3
