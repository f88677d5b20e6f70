"""What an operator gives vLLM: ``--additional-config '{"seka": {"banks": {"main": "my-bank/"}}}'``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from seka_rag.errors import SettingError
from seka_rag.hf.packaged import PACKAGED, GgufWheel, convert

#: The key in vLLM's additional configuration.
KEY = "seka"


class BankSettings(BaseModel):
    """One bank, and how it steers.

    Attributes:
        bank: its folder, its name on the Hub, or the name of a packaged model (``smollm2``), whose bank is meant.
        steering: a method in stored form, such as ``{"method": "KeyBias", "bias": 2.0}``; None for the one that it suggests.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bank: str = Field(min_length=1)
    steering: dict[str, object] | None = None


class EngineSettings(BaseModel):
    """The banks of one engine.

    Attributes:
        banks: name -> bank; a request that names none is steered with the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    banks: dict[str, BankSettings] = Field(min_length=1)

    @field_validator("banks", mode="before")
    @classmethod
    def _paths(cls, banks: object) -> Any:
        if not isinstance(banks, Mapping):
            return banks
        return {name: {"bank": bank} if isinstance(bank, str) else bank for name, bank in banks.items()}

    @property
    def first(self) -> str:
        """The name of the bank for requests that name none."""
        return next(iter(self.banks))


def engine_settings(vllm_config: Any) -> EngineSettings | None:
    """The settings in a configuration of vLLM; None if it has none, so that nothing is steered.

    Raises:
        SettingError: they are not of the form.
    """
    additional = vllm_config.additional_config
    given = additional.get(KEY) if isinstance(additional, Mapping) else None
    if given is None:
        return None
    try:
        return EngineSettings.model_validate(given)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingError(f"additional_config[{KEY!r}]: {wrong}") from None


def model_folder(name: str) -> str:
    """What vLLM loads: the converted weights of a packaged model (``smollm2``); any other name as it is."""
    packaged = PACKAGED.get(name)
    source = packaged.source if packaged else name
    return str(convert(name, source) if isinstance(source, GgufWheel) else source)


def bank_settings(
    name: str, bank: str | os.PathLike[str], steering: Mapping[str, object] | None = None
) -> dict[str, object]:
    """The settings of an engine with one bank, as ``engine_settings`` reads them.

    Args:
        name: of the model.
        bank: "auto" for the one that ships with the model.
        steering: a method in stored form; None for the one that the bank suggests.

    Raises:
        SettingError: "auto", and no bank ships with the model.
    """
    if bank == "auto" and name not in PACKAGED:
        raise SettingError(f"no bank ships with {name}: name one with bank=... (--bank)")
    return {"banks": {"main": {"bank": name if bank == "auto" else str(bank), "steering": steering}}}
