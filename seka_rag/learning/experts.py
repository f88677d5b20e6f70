"""The experts of AdaSEKA: one bank a task, learned with the same settings for one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seka_rag.bank import ExpertBank
from seka_rag.errors import LearningError, SettingError
from seka_rag.hf.types import Tokenizer
from seka_rag.learning.learn import learn_bank
from seka_rag.learning.settings import LearningSettings
from seka_rag.learning.tasks.biography import biography_triples
from seka_rag.learning.tasks.conversation import conversation_triples
from seka_rag.learning.tasks.instruction import instruction_triples
from seka_rag.learning.tasks.lookup import template_triples
from seka_rag.learning.tasks.multihop import multihop_triples
from seka_rag.learning.tasks.needle import needle_triples
from seka_rag.learning.triples import ContrastiveTriple

#: Name of an expert -> its triples, from ``n`` and a seed. A new task is one file in ``tasks/`` and one line here.
TASKS: dict[str, Callable[[int, int], list[ContrastiveTriple]]] = {
    "lookup": template_triples,
    "multihop": multihop_triples,
    "instruction": instruction_triples,
    "biography": biography_triples,
    "needle": needle_triples,
    "conversation": conversation_triples,
}


def task_triples(names: Sequence[str] | None = None, n: int = 300, seed: int = 0) -> dict[str, list[ContrastiveTriple]]:
    """Triples of the named tasks, by default of all.

    Raises:
        SettingError: an unknown name.
    """
    if isinstance(names, str):
        raise SettingError(f"give a list of tasks, [{names!r}]")
    unknown = sorted(set(names or ()) - set(TASKS))
    if unknown:
        raise SettingError(f"no task {', '.join(unknown)}; there are {', '.join(TASKS)}")
    return {name: TASKS[name](n, seed) for name in (TASKS if names is None else names)}


def learn_experts(
    model: Any,
    triples: Mapping[str, Sequence[ContrastiveTriple]],
    settings: LearningSettings | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    gains: Mapping[str, float] | None = None,
    progress: Callable[[int], None] | None = None,
    **options: object,
) -> ExpertBank:
    """One expert for each set of triples.

    Args:
        model, settings, tokenizer, progress, options: as in ``learn_bank``.
        triples: name of the expert -> its triples; see ``task_triples``.
        gains: name -> gain of that expert (default 1).

    Raises:
        SettingError: as ``learn_bank``.
        LearningError: no triples, or triples from which an expert cannot be learned; says which.
    """
    settings = LearningSettings.of(settings, options)
    if not triples:
        raise LearningError("no experts to learn: give at least one name with its triples")
    banks = {}
    for name, some in triples.items():
        try:
            banks[name] = learn_bank(model, some, settings, tokenizer=tokenizer, progress=progress)
        except LearningError as error:
            raise LearningError(f"expert {name!r}: {error}") from error
    return ExpertBank(banks, gains=gains)
