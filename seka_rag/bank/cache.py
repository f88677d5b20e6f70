"""Where learned banks are kept between runs."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from seka_rag.bank.header import FORMAT_VERSION
from seka_rag.hf.cache import cache_folder
from seka_rag.hf.identity import ModelIdentity


def bank_folder(name: str, model: ModelIdentity) -> Path:
    """The folder of the bank of one model; another model, or other weights, of the same name have another folder."""
    if Path(name).exists():  # folders of the same name are different models
        where = hashlib.sha256(str(Path(name).resolve()).encode()).hexdigest()[:8]
        name = f"{Path(name).resolve().name}-{where}"
    safe = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()
    weights = f"-{sorted(model.weights.items())[0][1][:8]}" if model.weights else ""
    return cache_folder() / f"banks-{FORMAT_VERSION}" / f"{safe}-{model.config_digest}{weights}"
