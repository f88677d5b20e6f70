"""What a GGUF file says about itself, read without its weights: a wrong file is named before anything is converted."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from seka_rag.errors import ModelFileError

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class GgufHeader:
    """Metadata and tensor table of a GGUF file.

    Attributes:
        metadata: key -> number, text, or the length of an array.
        shapes: tensor -> its shape as torch has it.
    """

    metadata: Mapping[str, object]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    @classmethod
    def read(cls, path: Path) -> GgufHeader:
        """The header of a file whose weights are complete.

        Raises:
            ModelFileError: no such file, not a GGUF file, of a version that cannot be read, damaged or cut off.
        """
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return cls._parsed(data, path)
        except (struct.error, UnicodeDecodeError, LookupError, OverflowError, MemoryError, RecursionError) as error:
            raise ModelFileError(f"the GGUF file {path} is damaged or cut off: its header cannot be read") from error
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            reason = "it is empty" if path.is_file() and not path.stat().st_size else str(error)
            raise ModelFileError(f"the GGUF file {path} cannot be read: {reason}") from error

    @classmethod
    def _parsed(cls, data: mmap.mmap, path: Path) -> GgufHeader:
        if data[:4] != b"GGUF":
            raise ModelFileError(f"{path} is not a GGUF file: it does not begin with the letters GGUF")
        cursor = _Cursor(data, 4)
        if (version := cursor.number("I")) not in (2, 3):
            raise ModelFileError(f"{path} is a GGUF file of version {version}; versions 2 and 3 can be read")
        tensors, keys = cursor.number("Q"), cursor.number("Q")
        metadata = {}
        for _ in range(keys):
            key = cursor.text()
            metadata[key] = cursor.value(cursor.number("I"))
        shapes, ends = {}, [0]
        for _ in range(tensors):
            name = cursor.text()
            shapes[name] = tuple(reversed([cursor.number("Q") for _ in range(cursor.number("I"))]))
            kind, start = cursor.number("I"), cursor.number("Q")
            ends.append(start + _bytes_of(kind, prod(shapes[name]), path))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise IndexError
        size = -(-cursor.at // alignment) * alignment + max(ends)
        if len(data) < size:
            raise ModelFileError(f"the GGUF file {path} is cut off: it has {len(data)} bytes of {size}. Fetch it again")
        header = cls(metadata, shapes)
        if not tensors or "general.architecture" not in metadata:
            raise ModelFileError(f"the GGUF file {path} holds no language model")
        return header


def _bytes_of(kind: int, numbers: int, path: Path) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (KeyError, ValueError):
        raise ModelFileError(f"{path} is quantised in a way (type {kind}) that cannot be read here") from None
    return int(numbers // block * size)


class _Cursor:
    def __init__(self, data: mmap.mmap, at: int) -> None:
        self.data, self.at = data, at

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return value

    def text(self) -> str:
        length = self.number("Q")
        raw = self.data[self.at : self.at + length]
        if len(raw) < length:
            raise IndexError
        self.at += length
        return raw.decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        element, count = self.number("I"), self.number("Q")
        if element in _SCALARS:
            self.at += count * struct.calcsize(f"<{_SCALARS[element]}")
        else:
            for _ in range(count):
                self.value(element)
        return count
