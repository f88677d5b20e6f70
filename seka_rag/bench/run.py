"""A whole run: from the options of the command to the files it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from seka_rag.bank.folders import write_file
from seka_rag.bench.curves import Entry, best_of_lines, lines
from seka_rag.bench.item import Item
from seka_rag.bench.measure import applies
from seka_rag.bench.methods import FAMILIES, HIGHLIGHTS, Variant, check_name, choose
from seka_rag.bench.report import write_report
from seka_rag.bench.rows import Comparison, Row, Table
from seka_rag.bench.runner import Subject, run
from seka_rag.bench.tasks import TASKS
from seka_rag.bench.tasks.base import Source, Task
from seka_rag.errors import RecordError, SettingError
from seka_rag.model.steered import SteeredModel
from seka_rag.questions.facts import Split

#: ``with bar(text, total) as advance``: a bar, and what moves it on.
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
#: Of rows and of paired tests.
FILES = ("results.json", "comparisons.json")


@dataclass(frozen=True)
class Plan:
    """The options of the command.

    Raises:
        SettingError: an unknown task, method, highlight, split or dtype; or no task.
    """

    tasks: tuple[str, ...]
    model: str
    out: Path
    bank: str = "auto"
    data: Path | None = None
    methods: tuple[str, ...] | None = None
    highlights: tuple[str, ...] | None = None
    limit: int | None = None
    split: str = "development"
    dtype: str = "auto"
    device: str = "cpu"
    quick: bool = False

    def __post_init__(self) -> None:
        for kind, names, known in (
            ("task", self.tasks, TASKS),
            ("method", self.methods or (), FAMILIES),
            ("highlight", self.highlights or (), HIGHLIGHTS),
            ("split", (self.split,), get_args(Split)),
            ("dtype", (self.dtype,), ("auto", "bfloat16", "float16", "float32")),
        ):
            for name in names:
                check_name(kind, name, known)
        if not self.tasks:
            raise SettingError(f"name a task: there are {', '.join(TASKS)}")
        if self.data is not None and len(self.tasks) > 1:
            raise SettingError(f"--data is read by one task, and {len(self.tasks)} are named: run them one by one")

    def limit_of(self, task: Task) -> int:
        """Records of each kind; of a file, all that it holds unless a limit is given or the run is quick."""
        usual = task.quick_limit if self.quick else task.limit if self.data is None else sys.maxsize
        return self.limit or usual

    def highlights_of(self, task: Task) -> tuple[str, ...]:
        return self.highlights or task.highlights


def run_plan(plan: Plan, bar: Bar) -> Iterator[Path]:
    """Run the tasks one after another and write what each gives; yields the paths of the files.

    Raises:
        SekaError: of the model, the data, the methods, or an ``out`` that holds another run or what is no result.
    """
    for name in FILES:
        _read(plan.out / name)  # before hours of answers
    model = SteeredModel.from_pretrained(plan.model, bank=plan.bank, dtype=plan.dtype, device=plan.device)
    for name in plan.tasks:
        task = TASKS[name]
        variants = choose(plan.methods, model.bank, quick=plan.quick, highlights=plan.highlights_of(task))
        table = _run_task(plan, task, Subject(model, plan.out), variants, bar)
        yield from _write(plan.out, task, table)
    yield from write_report(plan.out)


def _run_task(plan: Plan, task: Task, subject: Subject, variants: list[Variant], bar: Bar) -> Table:
    limit = plan.limit_of(task)
    source = Source(subject.model, plan.out, limit, plan.data, plan.split)  # type: ignore[arg-type]  # its name was checked with the plan
    with bar(f"{task.name}: what the model knows", 0 if plan.data else limit) as advance:
        items = _to_steer(task.items(replace(source, progress=advance)), plan.highlights_of(task), variants)
    with bar(task.name, len(items) * len(variants)) as advance:
        journal = run(task.name, subject, items, variants, progress=advance)
    return Table(task.name, subject.model.name, items, [Variant.of_key(key) for key in journal.complete], journal)


def _to_steer(items: list[Item], highlights: Sequence[str], variants: Sequence[Variant]) -> list[Item]:
    """The items to ask: without those that have no evidence to highlight, where no highlighter chooses.

    Raises:
        RecordError: no item has what a variant highlights.
    """
    if set(highlights) <= {"gold", "wrong"}:  # else these would count for the plain model alone
        items = [item for item in items if item.gold is not None] or items
    for variant in variants:
        if variant.highlight and not any(applies(item, variant) for item in items):
            what = "a highlight" if variant.highlight == "gold" else "another sentence to highlight wrongly"
            raise RecordError(
                f"no record has {what}: leave {variant.highlight!r} out, for example with --highlights sentences"
            )
    return items


def _write(out: Path, task: Task, table: Table) -> Iterator[Path]:
    rows = table.rows()
    figures: dict[Entry, dict[str, float]] = {}
    for row in rows:
        figures.setdefault(Entry.of(row.method, row.settings), {})[row.metric] = row.value
    best = {e for curve in task.curves for line in lines(figures, curve) if (e := line.best(curve.levels[-1]))}
    if not task.curves:  # where no harm is measured, the best of each method by its main figure
        best.update(best_of_lines(figures, next(c for c in task.columns if c.endswith((".right", ".first")))))
    metrics = dict.fromkeys([*(m for c in task.curves for m in (c.following, c.harm)), *task.columns])
    rates = [m for m in metrics if m.split(".")[-1] in ("right", "first", "other")]
    between = [v for v in table.variants if Entry.of_variant(v) in best]
    yield _merged(out / FILES[0], task.name, rows)
    yield _merged(out / FILES[1], task.name, table.comparisons(rates, between))


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none if it is not there.

    Raises:
        RecordError: it holds no rows.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        if all(isinstance(row["task"], str) for row in rows):
            return list(rows)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise RecordError(f"{path} holds no results that can be read: remove it, or give another --out")


def _merged(path: Path, task: str, rows: Sequence[Row | Comparison]) -> Path:
    """Write the rows of a task in place of those that it had; the other tasks keep theirs."""
    every = [*(r for r in _read(path) if r["task"] != task), *(row.as_dict() for row in rows)]
    every.sort(key=lambda r: list(TASKS).index(r["task"]) if r["task"] in TASKS else len(TASKS))
    lines_of_text = ",\n".join(json.dumps(row, ensure_ascii=False) for row in every)
    return write_file(path, f"[\n{lines_of_text}\n]\n".encode())
