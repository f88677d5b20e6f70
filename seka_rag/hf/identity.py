"""Which model this is, as far as keys are concerned."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import nn

from seka_rag.errors import BankError
from seka_rag.hf.sites import find_key_sites, setting, text_config

#: Configuration that changes what a key is; names, dtypes and generation settings do not.
_FIELDS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "layer_types",
    "rms_norm_eps",
    "rope_parameters",
    "sliding_window",
    "tie_word_embeddings",
)


class ModelIdentity(BaseModel):
    """What a bank must agree with in the model that it edits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: str
    config_digest: str
    layers: int
    heads: int
    head_dim: int
    site: str

    def check(self, other: ModelIdentity) -> None:
        """Raise unless ``other`` is the same model.

        Raises:
            BankError: names each field that differs, the bank's value and the model's.
        """
        differing = [
            f"{name} (bank: {value}, model: {getattr(other, name)})"
            for name, value in self
            if value != getattr(other, name)
        ]
        if differing:
            raise BankError(
                f"this bank was learned for another model: {'; '.join(differing)}. Learn one for this model"
            )


def identify(model: nn.Module) -> ModelIdentity:
    """The identity of a transformers model.

    Raises:
        UnsupportedModelError: its family is not known.
    """
    sites = find_key_sites(model)
    config: Any = text_config(model)
    relevant = {name: setting(config, name) for name in _FIELDS}
    text = json.dumps(relevant, sort_keys=True, default=str)
    return ModelIdentity(
        model_type=sites.model_type,
        config_digest=hashlib.sha256(text.encode()).hexdigest()[:16],
        layers=sites.layers,
        heads=sites.heads,
        head_dim=sites.head_dim,
        site=sites.layout.key.path,
    )
