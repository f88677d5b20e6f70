"""Tasks by name. A new task is one file in this folder and one line here."""

from __future__ import annotations

from seka_rag.bench.tasks.base import Task
from seka_rag.bench.tasks.biasbios import BiasBios
from seka_rag.bench.tasks.conflict_rag import ConflictRag
from seka_rag.bench.tasks.counterfact import CounterFact, CounterFactPaper
from seka_rag.bench.tasks.fluency import Fluency
from seka_rag.bench.tasks.kv_retrieval import KvRetrieval
from seka_rag.bench.tasks.lost_in_the_middle import LostInTheMiddle, LostInTheMiddle20
from seka_rag.bench.tasks.memotrap import MemoTrap
from seka_rag.bench.tasks.nq_swap import NqSwap
from seka_rag.bench.tasks.poison import Poison
from seka_rag.bench.tasks.pronchange import PronChange
from seka_rag.bench.tasks.several import Several

_TASKS: tuple[Task, ...] = (
    ConflictRag(),
    CounterFact(),
    CounterFactPaper(),
    BiasBios(),
    PronChange(),
    MemoTrap(),
    NqSwap(),
    LostInTheMiddle(),
    LostInTheMiddle20(),
    KvRetrieval(),
    Poison(),
    Several(),
    Fluency(),
)
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
