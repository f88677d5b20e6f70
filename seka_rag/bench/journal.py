"""A file of outcomes, one JSON line each, that a killed run leaves whole and the next one goes on with."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seka_rag.errors import RecordError, SettingError

Key = tuple[str, str]  # of a variant, of an item


class Journal:
    """Outcomes by variant and item, in the order in which they were written.

    The first line says what the run is; each further one is an outcome. Those of one batch are written together and are
    on the disk before the next batch begins. What a kill left of a batch is cut off when the file is opened again, so that
    the batch is run again as a whole: the file ends up the same.

    Args:
        path: of the file; made if it is not there.
        run: what the outcomes depend on, beside variant and item.
        batches: ids of the items of each batch.

    Raises:
        SettingError: the file is of another run; says what differs.
        RecordError: a line that is no outcome.
    """

    def __init__(self, path: Path, run: Mapping[str, object], batches: Sequence[Sequence[str]]) -> None:
        self.path = path
        self.items = sum(map(len, batches))
        self.outcomes: dict[Key, dict[str, object]] = {}
        header = json.dumps({"run": dict(run)}, sort_keys=True, ensure_ascii=False) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = self._read(header, batches) if path.exists() else 0
        with open(path, "ab") as file:
            file.truncate(kept)
            if not kept:
                file.write(header.encode())
            _to_disk(file)

    def _read(self, header: str, batches: Sequence[Sequence[str]]) -> int:
        """Reads whole batches; how many bytes they are."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        if not lines or not lines[0].endswith(b"\n"):
            return 0
        if lines[0].decode(errors="replace") != header:
            raise SettingError(f"{self.path} is of another run ({_differing(lines[0], header)}): give another --out")
        of = {item: tuple(batch) for batch in batches for item in batch}
        group: list[dict[str, Any]] = []
        kept = done = len(lines[0])
        for number, line in enumerate(lines[1:], 2):
            if not line.endswith(b"\n"):
                break
            try:
                found = json.loads(line)
                variant, item = found["variant"], found["id"]
                batch = of[item]
            except (ValueError, KeyError, TypeError) as error:
                raise RecordError(f"{self.path}, line {number}: no outcome of this run ({error!r})") from None
            if group and (group[0]["variant"] != variant or group[0]["id"] not in batch):
                raise RecordError(f"{self.path}, line {number}: a batch before it is not complete")
            group.append(found)
            done += len(line)
            if len(group) == len(batch):
                self._take(group)
                group, kept = [], done
        return kept

    def _take(self, group: Sequence[dict[str, Any]]) -> None:
        for found in group:
            outcome = {k: v for k, v in found.items() if k not in ("variant", "id")}
            self.outcomes[found["variant"], found["id"]] = outcome

    def add(self, variant: str, ids: Sequence[str], outcomes: Sequence[Mapping[str, object]]) -> None:
        """Write the outcomes of one batch."""
        group = [{"variant": variant, "id": i, **o} for i, o in zip(ids, outcomes, strict=True)]
        with open(self.path, "ab") as file:
            file.write("".join(json.dumps(o, ensure_ascii=False) + "\n" for o in group).encode())
            _to_disk(file)
        self._take(group)

    @property
    def complete(self) -> list[str]:
        """The variants that all items have an outcome of, in the order in which they came."""
        counts = Counter(variant for variant, _ in self.outcomes)
        return [variant for variant, n in counts.items() if n == self.items]

    def has(self, variant: str, ids: Sequence[str]) -> bool:
        """Whether a batch is done."""
        return all((variant, i) in self.outcomes for i in ids)


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _differing(line: bytes, header: str) -> str:
    try:
        old, new = json.loads(line)["run"], json.loads(header)["run"]
        return ", ".join(f"{k}: {old.get(k)!r}, now {new.get(k)!r}" for k in {**old, **new} if old.get(k) != new.get(k))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its first line is not one of ours"
