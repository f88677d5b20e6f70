"""Runs items in every way, batch by batch, each batch in all ways before the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from seka_rag.bank import Bank, ProjectionBank
from seka_rag.bench.item import Item, digest_of
from seka_rag.bench.journal import Journal
from seka_rag.bench.measure import Outcome, answers, applies, first_outcome, first_scores, tokens_of
from seka_rag.bench.methods import DIFFERENCE, DIFFERENCE_HEADS, FIRST, MODEL, SHIPPED, Variant
from seka_rag.bench.shipped import shipped_bank
from seka_rag.errors import RecordError, SettingError
from seka_rag.hf.identity import identify
from seka_rag.hf.loading import LoadedModel
from seka_rag.learning.learn import learn_bank
from seka_rag.learning.settings import LearningSettings
from seka_rag.learning.tasks.lookup import template_triples
from seka_rag.model.steered import SteeredModel

PLAIN = Variant("plain")
#: How banks that are learned here are learned: as the library first did, and as PRISM was published.
_SETTINGS = {
    FIRST: LearningSettings(best=0.2),
    DIFFERENCE: LearningSettings(energy=0.998, difference=True, values=True),
}
#: Rows and tokens of a batch, padding included, by the type of the device.
_BATCH = {"cpu": (16, 8192), "cuda": (128, 131_072)}


@dataclass(frozen=True)
class Subject:
    """A model with the banks that variants name; what takes long to make is kept in a folder."""

    model: SteeredModel
    folder: Path
    _others: dict[str, SteeredModel] = field(default_factory=dict, init=False, repr=False)

    def of(self, bank: str) -> SteeredModel:
        """The model with a bank."""
        if bank == MODEL:
            return self.model
        if bank not in self._others:
            model = self.model
            found = self._found(bank)
            self._others[bank] = SteeredModel(model.hf_model, model.tokenizer, bank=found, name=model.name)
        return self._others[bank]

    def _found(self, name: str) -> Bank | None:
        if name == SHIPPED:
            return shipped_bank(identify(self.model.hf_model))
        if name != DIFFERENCE_HEADS:
            return self._learned(name)
        whole = self._learned(DIFFERENCE)
        return whole.select(heads=self._kept(whole))

    def _learned(self, name: str) -> ProjectionBank:
        """A bank that is learned here, or was, for this model."""
        path, model = self.folder / f"bank-{name.replace(' ', '-')}", self.model
        if path.exists():
            kept, identity = ProjectionBank.load(path), identify(model.hf_model)
            if kept.model.config_digest == identity.config_digest and not kept.model.doubts(identity):
                return kept
        loaded = LoadedModel(model.hf_model, model.tokenizer, model.name)
        bank = learn_bank(loaded, template_triples(200), _SETTINGS[name])
        bank.save(path)
        return bank

    def _kept(self, found: ProjectionBank) -> list[tuple[int, int]]:
        """The heads of the model's bank for which another bank has something."""
        if not isinstance(self.model.bank, ProjectionBank):
            raise SettingError("PRISM on the heads of the model's bank needs one with heads: give --bank")
        both = (self.model.bank.ranks > 0) & (found.ranks > 0)
        return [(layer, head) for layer, head in both.nonzero().tolist()]


def batch_size(model: SteeredModel) -> tuple[int, int]:
    """Most rows and tokens of a batch, padding included, on the model's device."""
    return _BATCH.get(next(model.hf_model.parameters()).device.type, _BATCH["cpu"])


def batches(lengths: Sequence[int], rows: int, tokens: int) -> list[list[int]]:
    """Indices of items of like length, at most so many rows and tokens a batch.

    They depend on the lengths alone, not on what is done already: in reduced precision an answer may depend on its batch.
    """
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if found and len(found[-1]) < rows and (len(found[-1]) + 1) * lengths[i] <= tokens:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def run(
    task: str,
    subject: Subject,
    items: Sequence[Item],
    variants: Sequence[Variant],
    *,
    progress: Callable[[int], None] | None = None,
) -> Journal:
    """The outcomes of all items under all variants, those included that an earlier run left in the folder.

    Args:
        task: its name, that of the file.
        progress: called with the number of outcomes that are ready, since the last call.

    Raises:
        RecordError: no items, or an id stands twice.
        SettingError: the folder holds another run of this task.
        SekaError: of the methods, on their first batch.
    """
    ids = [item.id for item in items]
    if not items or len(set(ids)) < len(ids):
        raise RecordError(f"{task}: {'an id stands twice' if items else 'there is nothing to ask'}")
    model = subject.model
    lengths = [len(tokens_of(model, item, PLAIN)) + item.new_tokens for item in items]
    size = batch_size(model)
    parts = batches(lengths, *size)
    identity = identify(model.hf_model)
    about: dict[str, object] = {
        "task": task,
        "model": model.name,
        "config": identity.config_digest,
        "weights": identity.weights,
        "bank": None if model.bank is None else model.bank.digest,
        "dtype": str(getattr(model.hf_model, "dtype", None)).removeprefix("torch."),
        "items": digest_of(items),
        "batch": list(size),
        "versions": {name: version(name) for name in ("seka-rag", "torch", "transformers")},
    }
    journal = Journal(subject.folder / f"{task}.jsonl", about, [[ids[i] for i in part] for part in parts])
    for part in parts:
        some = [items[i] for i in part]
        plain: dict[str, Tensor] = {}
        for variant in variants:
            if not journal.has(variant.key, [item.id for item in some]):
                outcomes = _batch(subject.of(variant.bank), some, variant, plain)
                journal.add(variant.key, [item.id for item in some], outcomes)
            if progress is not None:
                progress(len(some))
    return journal


def _batch(model: SteeredModel, items: Sequence[Item], variant: Variant, plain: dict[str, Tensor]) -> list[Outcome]:
    """The outcomes of one batch; ``{}`` for an item that lacks what the variant highlights.

    Args:
        plain: scores of the plain model by item, filled in when they are first needed.
    """
    found: dict[str, Outcome] = {item.id: {} for item in items}
    some = [item for item in items if applies(item, variant)]
    opened = [item for item in some if item.opening is not None]
    asked = [item for item in some if item.new_tokens]
    if opened:
        every = [item for item in items if item.opening is not None]
        if not plain:
            plain |= {i.id: row for i, row in zip(every, first_scores(model, every, PLAIN), strict=True)}
        same = variant == PLAIN
        scores = [plain[i.id] for i in opened] if same else first_scores(model, opened, variant)
        for item, row in zip(opened, scores, strict=True):
            found[item.id] |= first_outcome(model, item, row, plain[item.id])
    if asked:
        for item, outcome in zip(asked, answers(model, asked, variant), strict=True):
            found[item.id] |= outcome
    return list(found.values())
