"""The log of a server: a line for each request, its own failures, and those that uvicorn and asyncio tell of."""

from __future__ import annotations

import json
import logging
import time

_OURS = "seka_rag.server"


class Lines(logging.Formatter):
    """Each record as one line: its time, level and message, or all of it as one JSON object."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"
        message = record.getMessage()
        if not self.as_json:
            return f"{at} {record.levelname} {message}"
        head = {"time": at, "level": record.levelname.lower()}
        if record.name == _OURS and message.startswith("{"):
            return json.dumps({**head, **json.loads(message)})
        return json.dumps({**head, "message": message})


def write_logs(*, as_json: bool) -> None:
    """Write the log to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(as_json=as_json))
    for name, level in ((_OURS, logging.INFO), ("uvicorn.error", logging.WARNING), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.addHandler(handler)
        logger.propagate = False
