"""Each recipe of LlamaIndex' examples marks what its row of the page says, on the built-in model."""

from __future__ import annotations

import pytest
from llama_index.llms.seka import SekaLLM
from llamaindex_recipes import BOOK
from recipes import check, check_listed

from seka_rag import SteeredModel


@pytest.fixture(scope="module")
def demo() -> SteeredModel:
    return SteeredModel.from_pretrained("seka-demo")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BOOK.recipes)
async def test_recipe(demo, name):
    await check(BOOK.recipes[name], demo, SekaLLM(steered_model=demo, max_tokens=1))


def test_the_page_lists_them():
    check_listed(BOOK)
