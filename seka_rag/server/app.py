"""The routes."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from seka_rag.errors import SekaError
from seka_rag.model.steered import SteeredModel
from seka_rag.server.errors import error_response
from seka_rag.server.guard import RequestGuard
from seka_rag.server.service import Service
from seka_rag.server.settings import ServerSettings


def build(model: SteeredModel, settings: ServerSettings) -> Starlette:
    """The application; every request goes to this one model."""
    service = Service(model, settings)
    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", service.models),
            Route("/tokenize", service.tokenize, methods=["POST"]),
            Route("/v1/chat/completions", service.chat, methods=["POST"]),
            Route("/v1/completions", service.completions, methods=["POST"]),
        ],
        middleware=[Middleware(RequestGuard, settings=settings)],
        exception_handlers=dict.fromkeys((SekaError, HTTPException), _refuse),
    )
    app.state.service = service
    return app


async def health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _refuse(request: Request, error: Exception) -> Response:
    return error_response(error)
