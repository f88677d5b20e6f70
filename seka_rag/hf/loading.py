"""Loading a model and its tokenizer, with errors that say what to do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from seka_rag.errors import ModelNotFoundError

_PACKAGE = Path(__file__).resolve().parents[1]

#: Models that ship with the package, by the name that is used for them everywhere: (model folder, bank folder).
BUILT_IN: dict[str, tuple[Path, Path]] = {
    "seka-demo": (_PACKAGE / "demo" / "model", _PACKAGE / "demo" / "bank"),
}


@dataclass(frozen=True)
class LoadedModel:
    """A transformers model in evaluation mode, its tokenizer, and the folder of a bank that ships with it."""

    hf_model: nn.Module
    tokenizer: Any
    name: str
    bank: Path | None = None


def load_model(name: str, **options: Any) -> LoadedModel:
    """Load a causal language model by Hub name, folder, or built-in name (``seka-demo``).

    Args:
        options: passed to ``AutoModelForCausalLM.from_pretrained`` (``dtype``, ``device_map``, ``revision``, ...).

    Raises:
        ModelNotFoundError: no such folder, no such model on the Hub, or the Hub cannot be reached.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, bank = BUILT_IN.get(name, (Path(name), None))
    shared = {key: options[key] for key in ("revision", "token", "trust_remote_code", "cache_dir") if key in options}
    source = str(path) if path.exists() else name
    if not path.exists():
        _check_connection(name, options)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **shared)
        model = AutoModelForCausalLM.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(_explain(name, path.exists(), error)) from error
    return LoadedModel(model.eval(), tokenizer, name, bank if bank and bank.exists() else None)


def _check_connection(name: str, options: Mapping[str, Any]) -> None:
    """Say at once that the Hub cannot be connected to; transformers would try for most of a minute.

    A slow network is no error, and nothing is asked for a model that is in the local cache.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    revision, file = options.get("revision"), "config.json"
    for last in (False, True):
        try:
            local = try_to_load_from_cache(name, file, cache_dir=options.get("cache_dir"), revision=revision)
            if local is None and not constants.HF_HUB_OFFLINE and not options.get("local_files_only"):
                get_hf_file_metadata(hf_hub_url(name, file, revision=revision), token=options.get("token"))
            return
        except Exception as error:
            if type(error).__name__ != "ConnectError":  # of httpx or httpx2, whichever the hub uses
                return  # whatever it is, transformers meets it again and says it better
            if last:
                raise ModelNotFoundError(_explain(name, False, error)) from error
        time.sleep(1)  # it may be a hiccup


def _explain(name: str, is_folder: bool, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0]
    if is_folder:
        if not (Path(name) / "config.json").is_file():
            reason = "it has no config.json"
        return f"the folder {name} does not hold a complete transformers model and tokenizer: {reason}"
    return (
        f"model {name!r} is neither a folder here nor could it be fetched from the Hugging Face Hub. Check the name and the "
        "network, give the path of a downloaded model, or use the built-in 'seka-demo', which needs no network. "
        f"(Reason: {reason})"
    )


def quiet() -> None:
    """No progress bars and hints of transformers in this process; for commands, never for a library call."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
