"""The command ``serve``."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from typing import Annotated

import typer
from rich.markup import escape

from seka_rag.cli.terminal import BANK, MODEL, console, errors, quiet, reporting


@reporting
def serve(
    model: Annotated[str, typer.Argument(help=MODEL)],
    bank: Annotated[str, typer.Option(help=BANK)] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="SEKA_API_KEY", help="Key that clients must send; by default everybody may ask."),
    ] = None,
    max_concurrent: Annotated[int, typer.Option(min=1, help="Generations that run at once.")] = 4,
    max_queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are refused.")] = 64,
    max_prompt_tokens: Annotated[int | None, typer.Option(min=1, help="Of a request; by default the context.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 4096,
    max_spans: Annotated[int, typer.Option(min=0, help="Highlights of a request.")] = 256,
    max_gain: Annotated[float, typer.Option(min=0, help="Most gain times weight.")] = 4.0,
    timeout: Annotated[float, typer.Option(help="Seconds for a request, its wait included.")] = 300.0,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 4 * 2**20,
) -> None:
    """Serve a model over HTTP, in the form of OpenAI, with highlights."""
    from pydantic import SecretStr

    from seka_rag.errors import MissingExtraError
    from seka_rag.model.steered import SteeredModel
    from seka_rag.server import ServerSettings, create_app

    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("uvicorn", "server") from None
    settings = ServerSettings(
        api_key=SecretStr(api_key) if api_key else None,
        max_concurrent=max_concurrent,
        max_queue=max_queue,
        max_prompt_tokens=max_prompt_tokens,
        max_new_tokens=max_new_tokens,
        max_spans=max_spans,
        max_gain=max_gain,
        timeout=timeout,
        max_body=max_body,
    )
    quiet()
    place = _bound(host, port)  # before the model is loaded, which takes a while
    loaded = SteeredModel.from_pretrained(model, bank=bank)
    app = create_app(loaded, settings)
    if settings.api_key is None and host not in ("127.0.0.1", "::1", "localhost"):
        errors.print("[yellow]warning:[/] no --api-key: whoever reaches this address may use the model")
    audit = logging.getLogger("seka_rag.server")
    audit.setLevel(logging.INFO)
    audit.addHandler(logging.StreamHandler())
    console.print(f"serving {escape(loaded.name)} at http://{escape(host)}:{place.getsockname()[1]}/v1")
    with suppress(KeyboardInterrupt):  # how it ends
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[place])


def _bound(host: str, port: int) -> socket.socket:
    from seka_rag.errors import SettingError

    place = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host, port))
    except OSError as error:
        place.close()
        raise SettingError(f"cannot listen at {host}, port {port}: {error}. Choose another --port or --host") from error
    return place
