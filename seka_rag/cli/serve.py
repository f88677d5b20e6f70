"""The command ``serve``."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from seka_rag.cli.terminal import BANK, DEVICE, MODEL, console, device_of, errors, quiet, reporting

_LIMITS, _NAMES = "Limits", "Keys and names"
_WITH_VLLM = {"model", "vllm_options", "backend", "bank", "host", "port", "api_key", "served_name"}


class Backend(str, Enum):
    """What runs the model."""

    transformers = "transformers"
    vllm = "vllm"


@reporting
def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=MODEL)],
    vllm_options: Annotated[
        list[str] | None, typer.Argument(help="Options of vLLM, after --: seka-rag serve ... -- --dtype float32")
    ] = None,
    backend: Annotated[
        Backend, typer.Option(help="What runs the model; vllm is an environment of its own: docs/how-to/vllm.md.")
    ] = Backend.transformers,
    bank: Annotated[str, typer.Option(help=BANK)] = "auto",
    device: Annotated[str | None, typer.Option(help=DEVICE)] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    log_json: Annotated[bool, typer.Option("--log-json", help="Write each line of the log as JSON.")] = False,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="SEKA_API_KEY", help="Key that clients must send.", rich_help_panel=_NAMES),
    ] = None,
    keys_file: Annotated[
        Path | None, typer.Option(help="File with a name and a key a line.", rich_help_panel=_NAMES)
    ] = None,
    served_name: Annotated[
        str | None, typer.Option("--served-model-name", help="The model's name to clients.", rich_help_panel=_NAMES)
    ] = None,
    cors_origin: Annotated[
        list[str], typer.Option(help="Origin of web pages that may ask; may be repeated.", rich_help_panel=_NAMES)
    ] = [],  # noqa: B006
    max_concurrent: Annotated[int, typer.Option(min=1, help="Generations at once.", rich_help_panel=_LIMITS)] = 4,
    max_queue: Annotated[
        int, typer.Option(min=0, help="Requests that may wait; more are refused.", rich_help_panel=_LIMITS)
    ] = 64,
    max_batch: Annotated[
        int, typer.Option(min=1, help="Requests that run together as one batch.", rich_help_panel=_LIMITS)
    ] = 16,
    max_connections: Annotated[int, typer.Option(min=1, help="Open connections.", rich_help_panel=_LIMITS)] = 1024,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a request; by default the context.", rich_help_panel=_LIMITS)
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.", rich_help_panel=_LIMITS)] = 4096,
    max_choices: Annotated[int, typer.Option(min=1, help="Answers to a request.", rich_help_panel=_LIMITS)] = 8,
    max_messages: Annotated[
        int, typer.Option(min=1, help="Messages of a request, their parts and calls.", rich_help_panel=_LIMITS)
    ] = 2000,
    max_tools: Annotated[int, typer.Option(min=0, help="Tools of a request.", rich_help_panel=_LIMITS)] = 128,
    max_schema: Annotated[int, typer.Option(min=1, help="Characters of a JSON schema.", rich_help_panel=_LIMITS)] = 2
    ** 16,
    max_spans: Annotated[int, typer.Option(min=0, help="Highlights of a request.", rich_help_panel=_LIMITS)] = 256,
    max_gain: Annotated[float, typer.Option(min=0, help="Gain times weight.", rich_help_panel=_LIMITS)] = 4.0,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.", rich_help_panel=_LIMITS)] = 4 * 2**20,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds for a request, its wait included.", rich_help_panel=_LIMITS)
    ] = 300.0,
    read_timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds for a request to arrive.", rich_help_panel=_LIMITS)
    ] = 30.0,
    write_timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds that an answer may stay unread.", rich_help_panel=_LIMITS)
    ] = 30.0,
    shutdown_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds for requests to end when the server does.", rich_help_panel=_LIMITS)
    ] = 30.0,
) -> None:
    """Serve a model over HTTP, in the form of OpenAI, with highlights."""
    from pydantic import SecretStr

    from seka_rag.errors import MissingExtraError, SettingError

    key = _key(api_key)
    if key is None and keys_file is None and host not in ("127.0.0.1", "::1", "localhost"):
        errors.print("[yellow]warning:[/] no key is set: whoever reaches this address may use the model")
    if backend is Backend.vllm:
        _check_for_vllm(context)
        names = ["--host", host, "--port", str(port), "--served-model-name", served_name or model]
        _become_vllm(model, bank, [*names, *(vllm_options or ())], key)
        return
    if vllm_options:
        raise SettingError(f"{' '.join(vllm_options)}: these are options of vLLM, and --backend vllm is not set")
    from seka_rag.model.steered import SteeredModel
    from seka_rag.server import ServerSettings, create_app

    try:
        from seka_rag.server.listening import uvicorn_server
    except ImportError:
        raise MissingExtraError("uvicorn", "server") from None
    from seka_rag.server.logs import write_logs

    given: dict[str, Any] = {name: value for name, value in locals().items() if name in ServerSettings.model_fields}
    given |= {"api_key": None if key is None else SecretStr(key), "cors_origins": tuple(cors_origin)}
    settings = ServerSettings(**given)
    quiet()
    place = _bound(host, port)  # before the model is loaded, which takes a while
    loaded = SteeredModel.from_pretrained(model, bank=bank, device=device_of(device))
    app = create_app(loaded, settings)
    write_logs(as_json=log_json)
    name = settings.served_name or loaded.name
    place.listen(2048)  # whoever reads the next line may connect at once
    console.print(f"serving {escape(name)} at http://{escape(host)}:{place.getsockname()[1]}/v1")
    with suppress(KeyboardInterrupt):  # how it ends
        uvicorn_server(app, settings).run(sockets=[place])


def _check_for_vllm(context: typer.Context) -> None:
    """Refuse what would be without effect.

    Raises:
        SettingError: an option that vLLM's server is not given, or no vLLM.
    """
    from seka_rag.errors import SettingError

    sources = {option: context.get_parameter_source(option.name or "") for option in context.command.params}
    named = [option for option, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if wrong := [option.opts[0] for option in named if option.name not in _WITH_VLLM]:
        raise SettingError(
            f"{', '.join(wrong)}: not with --backend vllm, which has limits of its own: give its options after --"
        )
    if find_spec("vllm") is None:
        raise SettingError(
            "--backend vllm needs vLLM 0.32 in this environment, which is not installed; it wants one of its own "
            "(docs/how-to/vllm.md)"
        )


def _become_vllm(model: str, bank: str, options: list[str], key: str | None) -> None:
    """Go on as the plugin's command, a process that nothing here imports."""
    environment = {**os.environ, **({} if key is None else {"VLLM_API_KEY": key})}  # a command line is seen by all
    os.execve(sys.executable, [sys.executable, "-m", "seka_vllm.launch", model, bank, *options], environment)


def _key(given: str | None) -> str | None:
    """The key, checked. An empty variable is not the same as none: click takes it for none, and the server would be open.

    Raises:
        SettingError: an empty key, or one that cannot be sent.
    """
    from seka_rag.server.settings import clean_key

    where = "--api-key (or SEKA_API_KEY)"
    text = os.environ.get("SEKA_API_KEY") if given is None else given
    if text is None:
        return None
    key = clean_key(text, where)
    if key != text:
        errors.print(f"[yellow]note:[/] white space at the ends of {where} was left out")
    return key


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
