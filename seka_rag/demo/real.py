"""The demo on a real model: questions over documents and rates on held-out questions, plain and steered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import seka_rag
from seka_rag.bench.closed_book import known_facts
from seka_rag.bench.rates import Rate
from seka_rag.demo.figures import Figure, write_rates, write_text
from seka_rag.demo.library import QUESTIONS, Asked, InOrder
from seka_rag.hf.tokens import TokenizedPrompt, by_length
from seka_rag.model.steered import SteeredModel
from seka_rag.questions.answers import abstains, follows
from seka_rag.questions.facts import Fact, Split, load_facts
from seka_rag.questions.kinds import Kind, questions
from seka_rag.questions.pairs import mcnemar
from seka_rag.questions.records import Record
from seka_rag.rag import Question, Rag
from seka_rag.steering.base import SteeringMethod
from seka_rag.steering.registry import suggested
from seka_rag.views.page import page_template, pieces
from seka_rag.views.terminal import highlighted

#: Kinds of held-out questions, and what the rate of each says.
KINDS: dict[Kind, str] = {
    "conflict": "a passage contradicts memory: follows it",
    "agreement": "a passage says what memory says: right",
    "novel": "a passage tells something new: right",
    "irrelevant": "no passage bears on it: right from memory",
    "wrong": "a false sentence is highlighted: still right",
}
#: Tokens of an answer, and rows of a batch: each token costs a reading of all weights, which many rows share.
NEW_TOKENS, _BATCH = 24, 64


@dataclass(frozen=True)
class Shown:
    """One question of the demo with both answers."""

    asked: Asked
    prepared: Question
    plain: str
    steered: str

    def right(self, text: str) -> bool:
        """Whether an answer follows the documents; where they do not answer, whether it says so."""
        return follows(text, self.asked.answers, self.asked.remembered) if self.asked.answers else abstains(text)


def run_real_demo(console: Console, name: str, out: Path, n: int, figures: Path | None, split: Split) -> None:
    """Print the demo on a model, write its page to ``out`` and its rates to ``figures``.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    template = page_template("demo/real.html.j2")  # what is missing is found before the work, not after it
    model = SteeredModel.from_pretrained(name)
    assert model.bank is not None
    method = suggested(model.bank)
    with _bar(console) as show:
        shown = ask_documents(model, partial(_of, show, "asking the documents", 2 * len(QUESTIONS)))
    _show(console, shown, method)
    with _bar(console) as show:
        rows = rates(model, method, n, split, show)
    _show_rates(console, rows, split)
    write_text(out, _page(template, name, model, method, shown, rows, split))
    if figures is not None:
        write_rates(figures, rows)
    console.print(f"The page with every prompt and its highlights: [bold]{out}[/]")


def ask_documents(model: SteeredModel, show: Callable[[int], None]) -> list[Shown]:
    """The plain and the steered answer to each question, over the same passages with the same automatic highlights.

    Args:
        show: called with how many answers are done.
    """
    asked = [Rag(model, InOrder(q.passages), highlighter="sentences").prepare(q.question) for q in QUESTIONS]
    prompts = [model.tokenize_chat(question.messages) for question in asked]
    plain = answers_to_prompts(model, prompts, None, NEW_TOKENS, show)
    steered = answers_to_prompts(model, prompts, "auto", NEW_TOKENS, lambda done: show(len(prompts) + done))
    return [Shown(*four) for four in zip(QUESTIONS, asked, map(str.strip, plain), map(str.strip, steered), strict=True)]


def rates(
    model: SteeredModel, method: SteeringMethod, n: int, split: Split, show: Callable[[str, int, int], None]
) -> list[Figure]:
    """Generated answers to ``n`` questions of each kind, about facts that the model knows; evidence is highlighted."""
    known = known_to(model, split, lambda done, total: show("which facts does it know?", done, total))
    rows = []
    for kind in KINDS:
        right = {}
        for label, steering in (("plain", None), ("steered", method)):
            right[label] = _right(model, kind, known, n, split, steering, partial(_of, show, f"{kind}, {label}", n))
        p = mcnemar(right["plain"], right["steered"])
        rows.append(Figure.of(kind, "plain", {}, Rate.of(right["plain"])))
        rows.append(Figure.of(kind, "steered", method.as_dict(), Rate.of(right["steered"]), p))
    return rows


def known_to(
    model: SteeredModel, split: Split, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Fact]:
    """The facts of a side that the model answers rightly without passages, in two of three wordings: it can lose these."""
    return known_facts(model, [fact for fact in load_facts() if fact.split == split], progress=progress)


def _of(show: Callable[[str, int, int], None], text: str, total: int, done: int) -> None:
    show(text, done, total)


def _right(
    model: SteeredModel,
    kind: Kind,
    known: Sequence[Fact],
    n: int,
    split: Split,
    steering: SteeringMethod | None,
    show: Callable[[int], None],
) -> list[bool]:
    records = questions(kind, split, n, facts=known, passages=(3, 3))
    texts = answers_to(model, records, steering, NEW_TOKENS, show)
    return [record.is_right(text) for record, text in zip(records, texts, strict=True)]


def answers_to(
    model: SteeredModel,
    records: Sequence[Record],
    steering: SteeringMethod | None,
    new_tokens: int,
    show: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """The model's answer to each record, in batches of prompts of like length.

    Args:
        show: called with how many are done.
    """
    prompts = [model.tokenize_chat([{"role": "user", "content": record.message}]) for record in records]
    return answers_to_prompts(model, prompts, steering, new_tokens, show)


def answers_to_prompts(
    model: SteeredModel,
    prompts: Sequence[TokenizedPrompt],
    steering: SteeringMethod | Literal["auto"] | None,
    new_tokens: int,
    show: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """The model's answer to each prompt, in batches of prompts of like length.

    Args:
        show: called with how many are done.
    """
    texts = [""] * len(prompts)
    done = 0
    for some in by_length(prompts, _BATCH):
        show(done)
        answers = model.generate([prompts[i] for i in some], steering=steering, max_new_tokens=new_tokens)
        for i, out in zip(some, answers, strict=True):
            texts[i] = out.text
        done += len(some)
    return texts


# --- what is shown


def _show(console: Console, shown: Sequence[Shown], method: SteeringMethod) -> None:
    first = shown[0]
    console.rule("[bold]the first prompt, highlights in colour")
    console.print(highlighted(first.prepared.prompt))
    table = Table(title="plain and steered answers, over the same passages", title_justify="left", show_lines=True)
    for column in ("question", "plain", f"steered: {method!r}"):
        table.add_column(column, ratio=1)
    for item in shown:
        evidence = ", ".join(item.asked.answers[:1]) or "the documents do not say"
        question = Text(item.asked.question).append(f"\n{item.asked.about}: {evidence}", style="dim")
        table.add_row(question, *(_verdict(item, text) for text in (item.plain, item.steered)))
    console.print(table)


def _verdict(item: Shown, text: str) -> Text:
    right = item.right(text)
    return Text("✓ " if right else "✗ ", style="bold green" if right else "bold red").append(
        text, style="not bold default"
    )


def _show_rates(console: Console, rows: Sequence[Figure], split: Split) -> None:
    table = Table(title=f"{rows[0].n} {split} questions of each kind: rate [95% interval]", title_justify="left")
    for column in ("questions", "plain", "steered", "p"):
        table.add_column(column)
    for kind, meaning in KINDS.items():
        plain, steered = (next(r for r in rows if r.kind == kind and r.method == m) for m in ("plain", "steered"))
        cells = (f"{r.value:.2f} \\[{r.low:.2f}, {r.high:.2f}]" for r in (plain, steered))
        table.add_row(meaning, *cells, f"{steered.p:.2g}")
    console.print(table)


def _page(
    template: Any,
    name: str,
    model: SteeredModel,
    method: SteeringMethod,
    shown: Sequence[Shown],
    rows: Sequence[Figure],
    split: Split,
) -> str:
    parameters = sum(p.numel() for p in model.hf_model.parameters()) / 1e6
    page: str = template.render(
        version=seka_rag.__version__,
        model=name,
        parameters=f"{parameters:.0f}M",
        method=repr(method),
        items=[
            {
                "question": s.asked.question,
                "about": s.asked.about,
                "evidence": s.asked.answers[0] if s.asked.answers else None,
                "plain": s.plain,
                "plain_right": s.right(s.plain),
                "steered": s.steered,
                "steered_right": s.right(s.steered),
                "pieces": list(pieces(s.prepared.prompt)),
            }
            for s in shown
        ],
        kinds=[(meaning, [r for r in rows if r.kind == kind]) for kind, meaning in KINDS.items()],
        n=rows[0].n,
        split=split,
    )
    return page


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda text, done, total: bar.update(task, description=text, completed=done, total=total)
