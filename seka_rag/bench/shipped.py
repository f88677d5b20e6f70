"""The bank that ships with a model, for runs that use another one."""

from __future__ import annotations

from seka_rag.bank import Bank, load_bank
from seka_rag.errors import BankError
from seka_rag.hf.identity import ModelIdentity
from seka_rag.hf.packaged import PACKAGED


def shipped_bank(model: ModelIdentity) -> Bank | None:
    """The first bank that ships with this package and fits a model; None if there is none."""
    for packaged in PACKAGED.values():
        bank = load_bank(packaged.bank)
        try:
            bank.model.check(model)
        except BankError:
            continue
        return bank
    return None
