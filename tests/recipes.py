"""Recipes of the frameworks' own tutorials: what each is, what must be marked in it, and the page that lists them.

``python tests/recipes.py`` writes the tables of docs/how-to/recipes.md.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seka_rag import SteeredModel

PAGE = Path(__file__).resolve().parents[1] / "docs" / "how-to" / "recipes.md"
LYON = "Greta lives in Lyon."
GRETA = f"{LYON} She plays the tuba."
BORIS = "Boris works as a baker. He has a cat."
MARKET = "The old market opens at nine."
QUESTION = "Where does Greta live?"
Marks = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Recipe:
    """One recipe.

    Attributes:
        name: what it does, as the page says it.
        source: the page of the framework's documentation.
        marked: for each call of the model, in order, the texts that must be marked.
        note: what a reader should know of the outcome.
        run: it, with the model; ``async`` ones are awaited.
    """

    name: str
    source: str
    marked: Marks
    note: str
    run: Callable[[Any], Any]

    @property
    def title(self) -> str:
        return self.source.rstrip("/").rsplit("/", 1)[-1].removesuffix(".ipynb")


class Book:
    """The recipes of one framework, in order."""

    def __init__(self, site: str, ending: str = "") -> None:
        self.site, self.ending = site, ending
        self.recipes: dict[str, Recipe] = {}

    def recipe(self, name: str, source: str, marked: Marks = ((LYON,),), note: str = "") -> Callable[[Any], Any]:
        def keep(run: Any) -> Any:
            self.recipes[run.__name__] = Recipe(
                name, source if "://" in source else f"{self.site}{source}{self.ending}", marked, note, run
            )
            return run

        return keep

    def rows(self) -> Iterator[str]:
        for r in self.recipes.values():
            marked = "; ".join("nothing" if not call else ", ".join(f"“{text}”" for text in call) for call in r.marked)
            yield f"| {r.name} | [{r.title}]({r.source}) | {marked}{'. ' + r.note if r.note else ''} |"


async def check(recipe: Recipe, engine: SteeredModel, llm: Any) -> None:
    """Run it with a framework's model, and compare what was marked in each call."""
    with recorded(engine) as calls:
        running = recipe.run(llm)
        if inspect.isawaitable(running):
            await running
    assert calls == [list(texts) for texts in recipe.marked]


def check_listed(book: Book) -> None:
    """The page has the row of each recipe."""
    text = PAGE.read_text()
    assert all(row in text for row in book.rows())


def words(text: str, size: int = 64) -> list[float]:
    """Counts of a text's words: embeddings enough for a few documents."""
    counts = [0.01] * size
    for word in "".join(c.lower() if c.isalnum() else " " for c in text).split():
        counts[zlib.crc32(word.encode()) % size] += 1.0
    return counts


@contextmanager
def recorded(engine: SteeredModel) -> Iterator[list[list[str]]]:
    """For each prompt that the model reads, the texts of its marked tokens, one for each run of them."""
    calls: list[list[str]] = []
    run = engine._run

    def record(call: Any) -> Any:
        for prompt in call.prompts:
            runs: list[list[int]] = [[]]
            for i, weight in zip(prompt.ids, prompt.weights, strict=True):
                if weight > 0:
                    runs[-1].append(i)
                elif runs[-1]:
                    runs.append([])
            calls.append([engine.tokenizer.decode(ids).replace(" .", ".").strip() for ids in runs if ids])
        return run(call)

    engine._run = record  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        del engine._run


def tables() -> str:
    """Both tables of the page."""
    lines = []
    for title, module in (("LangChain", "langchain_recipes"), ("LlamaIndex", "llamaindex_recipes")):
        book = importlib.import_module(module).BOOK
        lines += [f"## {title}", "", "| recipe | source | marked, call by call |", "|---|---|---|", *book.rows(), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    sys.path += [str(here / "integrations" / name) for name in ("langchain", "llama_index")]
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index("## LangChain")] + tables())
