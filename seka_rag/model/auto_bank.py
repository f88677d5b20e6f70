"""The bank of a model that none was named for: the one that ships with it, the one kept from last time, or a new one."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from tqdm.auto import tqdm

from seka_rag.bank import Bank, ProjectionBank, load_bank
from seka_rag.bank.cache import bank_folder
from seka_rag.errors import BankError, LearningError, TokenizationError, UnsupportedModelError
from seka_rag.hf.cache import one_process
from seka_rag.hf.identity import ModelIdentity, identify
from seka_rag.hf.loading import LoadedModel
from seka_rag.learning.learn import learn_bank
from seka_rag.learning.tasks.lookup import template_triples

logger = logging.getLogger(__name__)


def automatic_bank(loaded: LoadedModel) -> Bank:
    """The bank that ships with a model; else the cached one; else one learned now, with a bar, and cached.

    Several processes learn it once. A cache that cannot be used costs time, never the bank: it is then learned for this
    process alone, and the log says why. A damaged bank in the cache is set aside and learned again.

    Raises:
        UnsupportedModelError, LearningError, TokenizationError: no bank can be learned for this model.
    """
    if loaded.bank is not None:
        return load_bank(loaded.bank)
    try:
        return _cached_or_learned(loaded)
    except (UnsupportedModelError, LearningError, TokenizationError) as error:
        hint = f"no bank can be learned for {loaded.name}: {error}. Give bank=..., or bank=None to run it unsteered"
        raise type(error)(hint) from error


def _cached_or_learned(loaded: LoadedModel) -> Bank:
    identity = identify(loaded.hf_model)
    learned = None
    try:
        folder = bank_folder(loaded.name, identity)
        if folder.exists() and (bank := _read(folder, identity)) is not None:
            return bank
        with one_process(folder):
            if folder.exists():
                if (bank := _read(folder, identity)) is not None:
                    return bank  # by another process, meanwhile
                _set_aside(folder)
            learned = _learn(loaded, folder)
            learned.save(folder)
            return learned
    except (OSError, BankError) as error:
        logger.warning("the bank of %s cannot be kept, so every process learns it: %s", loaded.name, error)
        return _learn(loaded) if learned is None else learned


def _learn(loaded: LoadedModel, folder: Path | None = None) -> ProjectionBank:
    """The recipe; a change of it wants a change of ``bank_folder``."""
    triples = template_triples(200)
    where = f", kept in {folder}" if folder else ""
    logger.info("no bank for %s yet: learning one from %d templates (once%s)", loaded.name, len(triples), where)
    with tqdm(total=len(triples), desc=f"learning a bank for {loaded.name}", leave=False) as bar:
        return learn_bank(loaded, triples, best=0.2, progress=bar.update)


def _read(folder: Path, identity: ModelIdentity) -> Bank | None:
    """The bank of this model in the folder, or None for a damaged one."""
    try:
        bank = load_bank(folder)
        bank.model.check(identity)
        return bank
    except BankError as error:
        logger.warning("the cached bank in %s cannot be used: %s", folder, error)
        return None


def _set_aside(folder: Path) -> None:
    aside = folder.with_name(f"{folder.name}.damaged")
    if aside.is_dir():
        shutil.rmtree(aside)
    folder.replace(aside)
    logger.warning("set aside as %s; the bank is learned again", aside)
