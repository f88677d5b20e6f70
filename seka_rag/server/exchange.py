"""One request and its answer: what is known of it when it ends, for the log and for figures. No text of anybody."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from seka_rag.model.generation import Generation
from seka_rag.server.errors import log

_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass
class Exchange:
    """One request while it is answered.

    Attributes:
        id: of the request: the client's ``x-request-id`` if it has one, else a new one.
        route: the path, or "other" for one that is not served.
        key: name of the key that was sent.
        answer: id of the answer.
        highlights: where highlights are.
        wait: seconds from arrival to the begin of the generation.
        first_token: seconds from arrival to the first token.
        rows: requests in its batch.
        generations: the answers.
        error: kind of the error, if it ended in one.
        status: of the response.
    """

    id: str
    method: str
    route: str
    arrived: float = field(default_factory=time.monotonic)
    key: str | None = None
    answer: str | None = None
    highlights: list[dict[str, object]] = field(default_factory=list)
    wait: float | None = None
    first_token: float | None = None
    rows: int = 0
    generations: Sequence[Generation] = ()
    error: str | None = None
    status: int = 0
    seconds: float = 0.0

    def ran(self, began: float | None, first_token: float | None, rows: int) -> None:
        """Take note of the times (``time.monotonic``) of its generation, if it began."""
        if began is not None:
            self.wait, self.rows = began - self.arrived, rows
        if first_token is not None:
            self.first_token = first_token - self.arrived

    def end(self) -> None:
        """Write the line of the log; what only asks about the server and is answered has none."""
        self.seconds = time.monotonic() - self.arrived
        if (self.method == "POST" or self.status >= 400) and log.isEnabledFor(logging.INFO):
            log.info("%s", json.dumps(self.line()))

    def line(self) -> dict[str, object]:
        line: dict[str, object] = {
            "request": self.id,
            "http_method": self.method,
            "path": self.route,
            "status": self.status,
            "seconds": round(self.seconds, 4),
        }
        rest = {"key": self.key, "answer": self.answer, "error": self.error}
        times = {
            name: value and round(value, 4) for name, value in (("wait", self.wait), ("first_token", self.first_token))
        }
        line |= {name: value for name, value in {**rest, **times}.items() if value is not None}
        if self.answer is not None:
            line["highlights"] = self.highlights
        if self.generations:
            first = self.generations[0]
            reported = first.report.as_dict()
            line |= {name: reported[name] for name in ("method", "gain", "bank", "tokens_marked", "tokens_edited")}
            line["prompt_tokens"] = first.prompt_tokens
            line["completion_tokens"] = sum(g.completion_tokens for g in self.generations)
            line["finish_reason"] = [g.finish_reason for g in self.generations]
            line["rows"] = self.rows
        return line


def request_id(given: str | None) -> str:
    """The client's id of a request, if it is one that can stand in a log; else a new one."""
    return given if given is not None and _ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"
