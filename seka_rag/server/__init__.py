"""OpenAI-compatible HTTP over one SteeredModel."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from seka_rag.errors import MissingExtraError
from seka_rag.server.settings import ServerSettings

if TYPE_CHECKING:
    from seka_rag.model.steered import SteeredModel

__all__ = ["ServerSettings", "create_app"]


def create_app(model: SteeredModel, settings: ServerSettings | None = None) -> Any:
    """An ASGI application (Starlette) that serves this model.

    Raises:
        SteeringError: the model has no bank, or a trial request shows that it is not steered.
        SettingError: a file of keys that cannot be read.
        MissingExtraError: Starlette or the client of Prometheus is not installed.
    """
    if find_spec("starlette") is None:
        raise MissingExtraError("starlette", "server")
    if find_spec("prometheus_client") is None:
        raise MissingExtraError("prometheus-client", "server")
    from seka_rag.server.app import build
    from seka_rag.server.canary import check_steering

    check_steering(model)
    return build(model, settings or ServerSettings())
