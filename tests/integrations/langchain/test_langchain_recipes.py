"""Each recipe of LangChain's tutorials marks what its row of the page says, on the built-in model."""

from __future__ import annotations

import pytest
from langchain_recipes import BOOK
from langchain_seka import ChatSeka
from recipes import check, check_listed


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BOOK.recipes)
async def test_recipe(demo_engine, name):
    await check(BOOK.recipes[name], demo_engine, ChatSeka(steered_model=demo_engine, max_tokens=1))


def test_the_page_lists_them():
    check_listed(BOOK)
