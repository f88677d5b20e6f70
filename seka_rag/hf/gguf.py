"""Models in GGUF files (llama.cpp, Ollama, LM Studio), read by transformers and dequantised: plain models afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from seka_rag.errors import MissingExtraError, ModelFileError
from seka_rag.hf.gguf_header import GgufHeader


def is_gguf(name: str) -> bool:
    """Whether a model name is the path of a GGUF file."""
    return name.lower().endswith(".gguf")


def load_gguf(path: Path, *, dtype: torch.dtype | str | None = None, **options: Any) -> tuple[Any, Any]:
    """The model of a GGUF file, its weights dequantised, and its tokenizer with the chat template.

    Args:
        dtype: of the weights; bfloat16 by default.
        options: passed to ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        ModelFileError: the file is damaged or incomplete, or of an architecture that transformers does not read.
        MissingExtraError: the packages that read such files are not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _check_packages()
    dtype = torch.bfloat16 if dtype in (None, "auto") else dtype
    header = GgufHeader.read(path)
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model, info = AutoModelForCausalLM.from_pretrained(
            **where,
            dtype=torch.bfloat16 if dtype in (None, "auto") else dtype,
            output_loading_info=True,
            **_dense(),
            **options,
        )
    except Exception as error:  # readers of damaged files fail in every way there is
        raise ModelFileError(f"{path} could not be read as a GGUF model: {_first_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelFileError(f"{path} lacks {len(missing)} of the model's tensors, {missing[0]} among them")
    _mend_digits(tokenizer, header)
    return _as_plain(model, path), tokenizer


def _check_packages() -> None:
    from importlib.util import find_spec

    for package in ("gguf", "accelerate"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "gguf")


def _dense() -> dict[str, Any]:
    """What asks for plain weights, in the versions of transformers that could keep them packed."""
    import transformers

    kind = getattr(transformers, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def _as_plain(model: Any, path: Path) -> Any:
    """The model without the marks of quantisation: its weights are dense now, and it can be saved like any other."""
    for mark in ("hf_quantizer", "quantization_method"):
        if mark in vars(model):
            delattr(model, mark)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name, value in list(vars(model.config).items()):
        setattr(model.config, name, _shortest(value))
    model.config.name_or_path = path.name
    return model.eval()


def _shortest(value: Any) -> Any:
    """GGUF keeps numbers in 32 bits, and transformers reads 1e-05 as 9.999999747378752e-06: the number that was meant."""
    if isinstance(value, dict):
        return {key: _shortest(v) for key, v in value.items()}
    if isinstance(value, float):
        import numpy as np

        short = float(str(np.float32(value)))
        return short if float(np.float32(short)) == value else value
    return value


def _mend_digits(tokenizer: Any, header: GgufHeader) -> None:
    """SmolLM's vocabulary knows single digits, cut off before anything else; transformers does not read that."""
    if header.metadata.get("tokenizer.ggml.pre") == "smollm":
        from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

        steps = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(steps)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}"
