"""What a server allows."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class ServerSettings(BaseModel):
    """Limits of a server, and its key.

    Attributes:
        api_key: what clients send as ``Authorization: Bearer ...``; None lets everybody in.
        max_concurrent: generations that run at once; max_queue: requests that wait for one to end, more are refused (429).
        max_batch: requests that are alike and wait that run together as one batch; 1 runs each alone. A batch computes with
            other roundings than a single run, so that an answer can differ where two tokens are nearly as likely.
        max_prompt_tokens: None for what the context holds.
        max_new_tokens: most tokens of an answer.
        max_messages: messages of one request, with their parts and tool calls.
        max_tools: tools of one request.
        max_schema: characters of one JSON schema: a tool's parameters, or the form of an answer.
        max_spans: highlights of one request.
        max_gain: most of gain times weight, either sign.
        timeout: seconds from a request's arrival to the end of its answer.
        max_body: bytes of a request.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    api_key: SecretStr | None = None
    max_concurrent: int = Field(default=4, ge=1)
    max_queue: int = Field(default=64, ge=0)
    max_batch: int = Field(default=16, ge=1)
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    max_new_tokens: int = Field(default=4096, ge=1)
    max_messages: int = Field(default=2000, ge=1)
    max_tools: int = Field(default=128, ge=0)
    max_schema: int = Field(default=2**16, ge=1)
    max_spans: int = Field(default=256, ge=0)
    max_gain: float = Field(default=4.0, ge=0)
    timeout: float = Field(default=300.0, gt=0)
    max_body: int = Field(default=4 * 2**20, ge=1)
