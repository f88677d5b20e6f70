"""Files of JSON lines, each line one object of a known form; whatever is wrong is named with line and field."""

from __future__ import annotations

import json
import os
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from seka_rag.errors import RecordError

M = TypeVar("M", bound=BaseModel)


def read_lines(path: str | os.PathLike[str], form: type[M]) -> tuple[M, ...]:
    """Every line as an object of ``form``, which has a field ``id``; blank lines are skipped.

    Raises:
        RecordError: the file cannot be read or holds nothing, a line is not of the form, or an id stands twice.
    """
    found: list[M] = []
    lines: dict[str, int] = {}
    number = 0
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                item = form.model_validate_json(line)
                name = str(getattr(item, "id"))  # noqa: B009 (mypy knows of no id)
                if name in lines:
                    raise RecordError(f"{path}, line {number}, id: {name!r} stands already in line {lines[name]}")
                lines[name] = number
                found.append(item)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}, after line {number}: not UTF-8 ({error.reason}): save it as UTF-8") from error
    except ValidationError as error:
        raise RecordError(f"{path}, line {number}, {_first(error)}") from error
    if not found:
        raise RecordError(f"{path} is empty: write one JSON object a line with {', '.join(form.model_fields)}")
    return tuple(found)


def line_of(path: str | os.PathLike[str], name: str) -> int | None:
    """The number of the line whose object has this id; None if there is none."""
    with open(path, encoding="utf-8", newline="\n") as file:
        return next((n for n, line in enumerate(file, 1) if line.strip() and json.loads(line).get("id") == name), None)


def _first(error: ValidationError) -> str:
    """The first thing that is wrong: its field, and why."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    why = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {why}" if where else why
