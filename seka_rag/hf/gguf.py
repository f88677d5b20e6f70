"""Models in GGUF files (llama.cpp, Ollama, LM Studio), read by transformers and dequantised: plain models afterwards."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from seka_rag.errors import MissingExtraError, ModelFileError, ModelNotFoundError, SettingError
from seka_rag.hf.bars import own_bar
from seka_rag.hf.gguf_header import GgufHeader
from seka_rag.hf.types import Tokenizer, transformer

logger = logging.getLogger(__name__)

#: What chat templates end a turn with; a file names one end of text, which need not be it.
_ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|end_of_text|>", "<|eom_id|>")


def is_gguf(name: str) -> bool:
    """Whether a model name is the path of a GGUF file."""
    return name.lower().endswith(".gguf")


def load_gguf(
    path: Path, *, dtype: torch.dtype | str = torch.bfloat16, **options: object
) -> tuple[nn.Module, Tokenizer]:
    """The model of a GGUF file, its weights dequantised, and its tokenizer with the chat template.

    Args:
        dtype: of the weights; ``load_model`` says which one suits the processor.
        options: passed to ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        ModelNotFoundError: no such file.
        ModelFileError: it is damaged or incomplete, or of an architecture or form that cannot be read.
        SettingError: an option that has no meaning for such a file.
        MissingExtraError: the packages that read such files are not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, __version__

    _check_packages()
    if "quantization_config" in options:
        raise SettingError(f"quantization_config: the weights of {path.name} are dequantised when it is loaded")
    if not path.is_file():
        raise ModelNotFoundError(f"there is no GGUF file {path}")
    header = GgufHeader.read(path)
    where: dict[str, str] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    options = {"dtype": dtype, **_dense(), **options}
    try:
        with own_bar(f"reading {path.name}"):
            tokenizer = AutoTokenizer.from_pretrained(**where)
            model, info = AutoModelForCausalLM.from_pretrained(
                **where, **options, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except Exception as error:  # the readers of a strange file fail in every way there is
        raise ModelFileError(
            f"{path}, a GGUF file of architecture {header.architecture!r}, cannot be read by transformers {__version__}: "
            f"{type(error).__name__}: {error}"
        ) from error
    _check_complete(model, info, path)
    _mend_digits(tokenizer, header)
    _mend_ends(model, tokenizer)
    if "rope_freqs.weight" in header.shapes and (model.config.rope_parameters or {}).get("rope_type") == "default":
        logger.warning(
            "%s scales its rotary frequencies for long contexts, which transformers does not read from it: answers differ "
            "a little from llama.cpp's, and more with long prompts",
            path.name,
        )
    return _as_plain(model, path), tokenizer


def _check_packages() -> None:
    for package in ("gguf", "accelerate"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "gguf")


def _dense() -> dict[str, object]:
    """What asks for plain weights, in the versions of transformers that could keep them packed."""
    import transformers

    kind = getattr(transformers, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def _check_complete(model: nn.Module, info: dict[str, Any], path: Path) -> None:
    """Every parameter came from the file, in its shape, as numbers; transformers would fill the rest with noise."""
    if missing := sorted(info["missing_keys"]):
        raise ModelFileError(f"{path} lacks {len(missing)} tensors of the model, {missing[0]} among them")
    for name, found, expected in sorted(info["mismatched_keys"]):
        raise ModelFileError(
            f"{path}: {name} has shape {tuple(found)}, and its settings say {tuple(expected)}: they do not belong together"
        )
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ModelFileError(f"{path} is damaged: {name} holds values that are no numbers. Fetch it again")


def _as_plain(model: nn.Module, path: Path) -> nn.Module:
    """The model without the marks of quantisation: its weights are dense now, and it can be saved like any other."""
    for mark in ("hf_quantizer", "quantization_method"):
        if mark in vars(model):
            delattr(model, mark)
    config = transformer(model).config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    for name, value in list(vars(config).items()):
        setattr(config, name, _shortest(value))
    config.name_or_path = config.gguf_file = path.name
    return model


def _shortest(value: object) -> object:
    """A file keeps numbers in 32 bits, and 1e-05 is read as 9.999999747378752e-06: the number that was meant."""
    if isinstance(value, dict):
        return {key: _shortest(v) for key, v in value.items()}
    if isinstance(value, float) and value == np.float32(value):
        return float(str(np.float32(value)))
    return value


def _mend_digits(tokenizer: Tokenizer, header: GgufHeader) -> None:
    """SmolLM's vocabulary knows single digits, cut off before anything else; transformers does not read that."""
    if header.metadata.get("tokenizer.ggml.pre") == "smollm":
        from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

        steps = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(steps)


def _mend_ends(model: nn.Module, tokenizer: Tokenizer) -> None:
    """Answers end where the chat template ends a turn."""
    template, settings = tokenizer.chat_template or "", transformer(model).generation_config
    given = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    control = tokenizer.added_tokens_encoder
    ends = [*given, *(control[token] for token in _ENDS_OF_TURN if token in template and token in control)]
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    settings.eos_token_id = ends[0] if len(ends) == 1 else ends or None
