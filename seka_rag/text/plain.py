"""Plain data: what JSON and YAML hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

#: An object of JSON. What its values are is checked where they are read.
JsonObject: TypeAlias = dict[str, object]
#: One that is only read.
ReadOnlyJson: TypeAlias = Mapping[str, object]
