"""Which model this is, as far as keys are concerned."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from seka_rag.errors import BankError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.sites import setting, text_config
from seka_rag.hf.types import transformer

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
#: Not part of the agreement that ``check`` asks for: the weights only warn, name and revision only inform.
_PROVENANCE = {"weights", "name", "revision", "gguf"}
_SAMPLES = 16  # of each parameter
_ROUNDINGS = (torch.bfloat16, torch.float16)
_fingerprints: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()


class ModelIdentity(BaseModel):
    """What a bank must agree with in the model that it edits.

    Attributes:
        weights: digests of a sample of the weights, by the precision that they were rounded to; empty if they cannot be
            read (quantised, offloaded, sharded). They tell a fine-tuned model from its base.
        name, revision: the model's name and commit on the Hub, if known.
        gguf: name of the GGUF file that the weights were dequantised from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: str
    config_digest: str
    layers: int
    heads: int
    head_dim: int
    site: str
    weights: dict[str, str] = {}
    name: str | None = None
    revision: str | None = None
    gguf: str | None = None

    def check(self, other: ModelIdentity) -> None:
        """Raise unless ``other`` is the same architecture, size and configuration.

        Raises:
            BankError: names each field that differs, the bank's value and the model's.
        """
        differing = [
            f"{name} (bank: {value}, model: {getattr(other, name)})"
            for name, value in self
            if name not in _PROVENANCE and value != getattr(other, name)
        ]
        if differing:
            raise BankError(
                f"this bank was learned for another model: {'; '.join(differing)}. Learn one for this model"
            )

    def doubts(self, other: ModelIdentity) -> list[str]:
        """Warnings about a model that passed ``check`` and yet is not the one that the bank was learned for."""
        common = self.weights.keys() & other.weights.keys()
        if any(self.weights[rounding] != other.weights[rounding] for rounding in common):
            if self.gguf != other.gguf:
                return [
                    f"the bank was learned with {self._weights_in_words()} and the model has {other._weights_in_words()}: "
                    "it is used, and fits if these are one model in two precisions; a bank learned here fits in any case"
                ]
            return [
                "the model's weights differ from those that the bank was learned with (a fine-tuned or adapted model?): "
                "learn a bank for it, or check that this one still helps"
            ]
        known = not common and self.name == other.name and None not in (self.revision, other.revision)
        if known and self.revision != other.revision:
            return [f"the bank was learned with revision {self.revision} of the model; this is {other.revision}"]
        return []

    def _weights_in_words(self) -> str:
        return f"the weights of {self.gguf}" if self.gguf else "weights that come from no GGUF file"


def identify(model: nn.Module, *, remembered: bool = False) -> ModelIdentity:
    """The identity of a transformers model.

    Args:
        remembered: take the fingerprint of the weights from an earlier call, if there was one: for checks that every
            request makes.

    Raises:
        UnsupportedModelError: its family is not known.
    """
    sites = find_key_sites(model)
    config = text_config(model)
    relevant = {name: _canonical(setting(config, name)) for name in _FIELDS}
    text = json.dumps(relevant, sort_keys=True, default=str)
    if not remembered or model not in _fingerprints:
        _fingerprints[model] = {} if _is_altered(model) else fingerprint(sites.decoder)
    top = transformer(model).config
    return ModelIdentity(
        model_type=sites.model_type,
        config_digest=hashlib.sha256(text.encode()).hexdigest()[:16],
        layers=sites.layers,
        heads=sites.heads,
        head_dim=sites.head_dim,
        site=sites.layout.key.path,
        weights=_fingerprints[model],
        name=_hub_name(getattr(top, "_name_or_path", None) or ""),
        revision=getattr(top, "_commit_hash", None),
        gguf=getattr(top, "gguf_file", None),
    )


def _canonical(value: object) -> object:
    """A setting as every form of the model's files writes it: 1e5 and 100000 are one number, and so are those of 32 bits."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    if isinstance(value, float) and isfinite(value):
        return int(value) if value == int(value) else float(f"{value:.6g}")
    return value


def _hub_name(name: str) -> str | None:
    """The name if it is one of the Hub; a path of this machine is nobody's business."""
    return name if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) and not Path(name).exists() else None


def fingerprint(module: nn.Module) -> dict[str, str]:
    """Digests of a sample of the weights, one for each 16-bit precision that they can be rounded to without doubt.

    The same checkpoint loaded in float32 and in bfloat16 has the same bfloat16 digest, and likewise for float16; what was
    rounded to one of them says nothing about the other. Weights that are not plain tensors on a device give none.
    """
    roundings = set(_ROUNDINGS)
    samples: list[Tensor] = []
    for parameter in module.parameters():
        weight = parameter.detach()
        plain = type(parameter) is nn.Parameter and type(weight) is Tensor and not weight.is_meta and weight.numel()
        if not plain or weight.dtype not in (torch.float32, *_ROUNDINGS):
            return {}
        if weight.dtype in roundings:
            roundings = {weight.dtype}
        elif weight.dtype != torch.float32:
            return {}  # a mixture of both
        where = (torch.arange(_SAMPLES, device=weight.device) * 2_654_435_761) % weight.numel()
        samples.append(weight.take(where).float().cpu())
    if not samples:
        return {}
    sample = torch.cat(samples)
    return {str(r).removeprefix("torch."): _digest(sample.to(r)) for r in _ROUNDINGS if r in roundings}


def _digest(sample: Tensor) -> str:
    return hashlib.sha256(sample.view(torch.int16).numpy().tobytes()).hexdigest()[:16]


def _is_altered(model: nn.Module) -> bool:
    """Quantised, or split over devices by tensor parallelism: the parameters are not those of the checkpoint."""
    quantised = getattr(model, "hf_quantizer", None) or getattr(model.config, "quantization_config", None)
    return bool(quantised) or (getattr(model, "_tp_size", None) or 1) > 1
