"""Where learned banks are kept between runs."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from seka_rag.bank.header import FORMAT_VERSION
from seka_rag.hf.identity import ModelIdentity


def cache_folder() -> Path:
    """``SEKA_RAG_CACHE``, else ``seka-rag`` below the user's cache folder."""
    given = os.environ.get("SEKA_RAG_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seka-rag"


def bank_folder(name: str, model: ModelIdentity) -> Path:
    """The folder of the bank of one model; another model, or other weights, of the same name have another folder."""
    if Path(name).exists():  # folders of the same name are different models
        where = hashlib.sha256(str(Path(name).resolve()).encode()).hexdigest()[:8]
        name = f"{Path(name).resolve().name}-{where}"
    safe = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()
    weights = f"-{sorted(model.weights.items())[0][1][:8]}" if model.weights else ""
    return cache_folder() / f"banks-{FORMAT_VERSION}" / f"{safe}-{model.config_digest}{weights}"
