"""Tasks by name. A new task is one file in this folder and one line here."""

from __future__ import annotations

from seka_rag.bench.tasks.base import Task
from seka_rag.bench.tasks.conflict_rag import ConflictRag
from seka_rag.bench.tasks.counterfact import CounterFact, CounterFactPaper

TASKS: dict[str, Task] = {task.name: task for task in (ConflictRag(), CounterFact(), CounterFactPaper())}
