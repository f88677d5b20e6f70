"""Each recipe of LlamaIndex' examples marks what its row of the page says, on the built-in model."""

from __future__ import annotations

import inspect

import pytest
from llama_index.llms.seka import SekaLLM
from llamaindex_recipes import BOOK
from recipes import PAGE, recorded

from seka_rag import SteeredModel


@pytest.fixture(scope="module")
def demo() -> SteeredModel:
    return SteeredModel.from_pretrained("seka-demo")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BOOK.recipes)
async def test_recipe(demo, name):
    recipe = BOOK.recipes[name]
    with recorded(demo) as calls:
        running = recipe.run(SekaLLM(steered_model=demo, max_tokens=1))
        if inspect.isawaitable(running):
            await running
    assert calls == [list(texts) for texts in recipe.marked]


def test_the_page_lists_them():
    text = PAGE.read_text()
    assert all(row in text for row in BOOK.rows())
