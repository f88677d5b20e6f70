"""OpenAI-compatible HTTP over one SteeredModel."""

from __future__ import annotations

from importlib import import_module
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
    for package in ("starlette", "prometheus_client"):
        try:
            import_module(package)
        except ImportError:
            raise MissingExtraError(package.replace("_", "-"), "server") from None
    from seka_rag.server.app import build
    from seka_rag.server.canary import check_steering

    check_steering(model)
    return build(model, settings or ServerSettings())
