"""Each recipe of LangChain's tutorials marks what its row of the page says, on the built-in model."""

from __future__ import annotations

import inspect

import pytest
from langchain_recipes import BOOK
from langchain_seka import ChatSeka
from recipes import PAGE, recorded


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BOOK.recipes)
async def test_recipe(demo_engine, name):
    recipe = BOOK.recipes[name]
    with recorded(demo_engine) as calls:
        running = recipe.run(ChatSeka(steered_model=demo_engine, max_tokens=1))
        if inspect.isawaitable(running):
            await running
    assert calls == [list(texts) for texts in recipe.marked]


def test_the_page_lists_them():
    text = PAGE.read_text()
    assert all(row in text for row in BOOK.rows())
