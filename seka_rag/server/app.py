"""The routes."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from seka_rag.errors import SekaError
from seka_rag.model.steered import SteeredModel
from seka_rag.server.errors import error_response, kind_of
from seka_rag.server.guard import RequestGuard
from seka_rag.server.service import Service
from seka_rag.server.settings import ServerSettings


def build(model: SteeredModel, settings: ServerSettings) -> Starlette:
    """The application; every request goes to this one model."""
    service = Service(model, settings)
    routes = [
        Route("/health", service.alive),
        Route("/healthz", service.alive),
        Route("/readyz", service.ready),
        Route("/version", service.version),
        Route("/metrics", service.figures),
        Route("/v1/models", service.models),
        Route("/v1/models/{name:path}", service.one_model),
        Route("/tokenize", service.tokenize, methods=["POST"]),
        Route("/v1/chat/completions", service.chat, methods=["POST"]),
        Route("/v1/completions", service.completions, methods=["POST"]),
        Route("/v1/responses", service.responses, methods=["POST"]),
        Route("/v1/citations", service.citations, methods=["POST"]),
    ]
    middleware = [Middleware(RequestGuard, service=service, routes=frozenset(route.path for route in routes))]
    if settings.cors_origins:  # before the guard: a browser asks without a key whether it may ask
        middleware.insert(
            0,
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "retry-after"],
            ),
        )
    handlers = dict.fromkeys((SekaError, HTTPException), _refuse)
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)
    app.state.service = service
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    request.state.exchange.error = kind_of(error)
    return error_response(error)
