"""What a server allows."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from seka_rag.errors import SettingError


class ServerSettings(BaseModel):
    """Keys, names and limits of a server.

    Attributes:
        api_key: what clients send as ``Authorization: Bearer ...``; without it and ``keys_file`` everybody gets in.
        keys_file: a file of such keys, each with a name: one can be revoked. It is read again when it has changed.
        served_name: the model's name to clients; by default its own.
        cors_origins: origins of web pages that may ask, such as ``https://example.org``, or ``*``.
        max_concurrent: generations that run at once; max_queue: requests that wait for one to end, more are refused (429).
        max_batch: requests that are alike and wait that run together as one batch; 1 runs each alone. A batch computes with
            other roundings than a single run, so that an answer can differ where two tokens are nearly as likely.
        max_connections: open connections; more are refused (503).
        max_prompt_tokens: None for what the context holds.
        max_new_tokens: most tokens of an answer.
        max_choices: most answers to one request.
        max_messages: messages of one request, with their parts and tool calls.
        max_tools: tools of one request.
        max_schema: characters of one JSON schema: a tool's parameters, or the form of an answer.
        max_spans: highlights of one request.
        max_gain: most of gain times weight, either sign.
        max_body: bytes of a request.
        timeout: seconds from a request's arrival to the end of its answer, reading and waiting included.
        read_timeout: seconds for a request to arrive.
        write_timeout: seconds that a client may leave an answer unread before its connection is cut.
        shutdown_timeout: seconds for running requests to end when the server does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    api_key: SecretStr | None = None
    keys_file: Path | None = None
    served_name: str | None = Field(default=None, min_length=1)
    cors_origins: tuple[str, ...] = ()
    max_concurrent: int = Field(default=4, ge=1)
    max_queue: int = Field(default=64, ge=0)
    max_batch: int = Field(default=16, ge=1)
    max_connections: int = Field(default=1024, ge=1)
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    max_new_tokens: int = Field(default=4096, ge=1)
    max_choices: int = Field(default=8, ge=1)
    max_messages: int = Field(default=2000, ge=1)
    max_tools: int = Field(default=128, ge=0)
    max_schema: int = Field(default=2**16, ge=1)
    max_spans: int = Field(default=256, ge=0)
    max_gain: float = Field(default=4.0, ge=0)
    max_body: int = Field(default=4 * 2**20, ge=1)
    timeout: float = Field(default=300.0, gt=0)
    read_timeout: float = Field(default=30.0, gt=0)
    write_timeout: float = Field(default=30.0, gt=0)
    shutdown_timeout: float = Field(default=30.0, ge=0)

    @field_validator("api_key")
    @classmethod
    def _a_key(cls, key: SecretStr | None) -> SecretStr | None:
        return key if key is None else SecretStr(clean_key(key.get_secret_value(), "api_key"))


def clean_key(text: str, where: str) -> str:
    """A key without white space at its ends, which a file or a shell often adds and no header keeps.

    Raises:
        SettingError: an empty key, or one that cannot be sent in a header.
    """
    key = text.strip()
    if not key:
        raise SettingError(f"{where} is empty: give a key, or leave it out so that everybody may ask")
    if re.search(r"[\x00-\x20\x7f]", key):
        raise SettingError(f"{where} holds white space or control characters, which a header cannot carry")
    return key
