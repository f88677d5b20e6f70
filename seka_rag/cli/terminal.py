"""What all commands share: the console, errors as one message, progress, prompts in colour."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from seka_rag.errors import DocumentError, SekaError

console, errors = Console(), Console(stderr=True)
P = ParamSpec("P")

MODEL = "A name on the Hub, a folder, a GGUF file, smollm2, or seka-demo (built in, tiny)."
DEVICE = "Where the model runs, such as cpu or cuda:1; by default the GPU, where torch finds one of CUDA."
STRICT = "End at a file that cannot be read, instead of leaving it out."
BANK = "Folder of a bank, or its name on the Hub; auto: the model's own, else one is learned and cached."


def reporting(command: Callable[P, None]) -> Callable[P, None]:
    """Errors that the library foresees become one clear message and exit code 1, and warnings one line each."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _warn
                command(*args, **kwargs)
        except SekaError as error:
            errors.print(f"[bold red]error:[/] {escape(str(error))}")
            raise typer.Exit(1) from None
        except ValidationError as error:  # of an option such as --gain
            told = "; ".join(f"{'.'.join(map(str, e['loc']))}={e['input']}: {e['msg']}" for e in error.errors())
            errors.print(f"[bold red]error:[/] {escape(told)}")
            raise typer.Exit(1) from None

    return run


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    errors.print(f"[yellow]warning:[/] {escape(str(message))}", soft_wrap=True)


def device_of(given: str | None) -> str:
    """The device that was named, else the GPU, else the processor."""
    import torch

    return given or ("cuda" if torch.cuda.is_available() else "cpu")


def left_out(error: DocumentError) -> None:
    """Say which file is not among the documents, and why."""
    errors.print(f"[yellow]warning:[/] left out: {escape(str(error))}", soft_wrap=True)


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar while the ``with`` lasts; call what it yields with what was done since the last call."""
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.advance(task, done)


def quiet() -> None:
    """Keep transformers' own bars and hints out of the output of commands, and show what ours has to tell."""
    from seka_rag.hf import loading

    loading.quiet()
    for name in ("seka_rag.hf", "seka_rag.model", "seka_rag.learning"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, _Lines) for handler in logger.handlers):
            logger.addHandler(_Lines())


class _Lines(logging.Handler):
    """Log lines as the commands print everything else."""

    def emit(self, record: logging.LogRecord) -> None:
        mark = "[yellow]warning:[/] " if record.levelno >= logging.WARNING else ""
        errors.print(mark + escape(record.getMessage()))
