"""Parsers in a process of their own, which ends when a file takes too long or too much memory.

Formats like HTML and PDF let a small file demand any amount of work, and what ends in Python may not be interrupted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FuturesTimeoutError
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from seka_rag.errors import DocumentError, MissingExtraError

_MEMORY = 4 << 30  # bytes of address space
#: The package without its __init__, which would load torch. The search path is this process's, and never the folder that
#: it happens to run in.
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; import types; package = types.ModuleType('seka_rag'); "
    "package.__path__ = [sys.argv[1]]; sys.modules['seka_rag'] = package; "
    "from seka_rag.retrieval.confined import serve; serve()"
)


class ConfinedParsers:
    """Runs parsers by name (``html.parse_html``) in a process that is started when it is first needed; a context.

    Args:
        timeout: seconds for one file.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = ThreadPoolExecutor(1, "seka-parser")

    def __enter__(self) -> ConfinedParsers:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()
        self._thread.shutdown()

    def parse(self, parser: str, data: bytes, encoding: str | None) -> tuple[str, dict[str, object]]:
        """The text of a file's content, and what else is known of it.

        Raises:
            DocumentError: what the parser says, or that it took too long or ended.
            MissingExtraError: a package that it needs is not installed.
        """
        request = json.dumps({"parser": parser, "encoding": encoding, "size": len(data)}).encode() + b"\n"
        try:
            answer = self._thread.submit(self._ask, request, data).result(self.timeout)
        except FuturesTimeoutError:
            self._end()
            raise DocumentError(
                f"takes longer than {self.timeout:g} seconds to read: it is built to, or very large; give a larger timeout, "
                "or split it"
            ) from None
        except (OSError, ValueError) as error:  # also an answer that is none
            self._end()
            raise DocumentError(
                f"ended the process that reads it ({type(error).__name__}): it is damaged, or needs too much memory"
            ) from None
        except BaseException:
            self._end()
            raise
        if "package" in answer:
            raise MissingExtraError(answer["package"], "documents")
        if "error" in answer:
            raise DocumentError(answer["error"])
        return answer["text"], {key: tuple(v) if isinstance(v, list) else v for key, v in answer["metadata"].items()}

    def _ask(self, request: bytes, data: bytes) -> dict[str, Any]:
        if self._process is None:
            package = str(Path(__file__).resolve().parents[1])
            path = [str(Path(p).resolve()) for p in sys.path if p]
            self._process = subprocess.Popen(
                [sys.executable, "-X", "utf8", "-c", _START, package, *path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request + data)
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert isinstance(answer, dict)
        return answer

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what was not sent any more
                    pipe.close()  # type: ignore[union-attr]  # both were asked for


def serve() -> None:
    """What the process does: answers one request after another until its input ends."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever a library prints
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, ValueError, OSError):  # a system without such limits, or with lower ones
        pass
    while line := source.readline():
        target.write(json.dumps(_answer(json.loads(line), source)).encode() + b"\n")
        target.flush()


def _answer(request: dict[str, Any], source: BinaryIO) -> dict[str, object]:
    data = source.read(request["size"])
    module, name = request["parser"].split(".")
    try:
        text, metadata = getattr(import_module(f"seka_rag.retrieval.parsers.{module}"), name)(data, request["encoding"])
        return {"text": text, "metadata": metadata}
    except MissingExtraError as error:
        return {"package": error.package}
    except ImportError as error:
        return {"package": error.name or str(error)}
    except DocumentError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": f"needs more than {_MEMORY >> 30} GB of memory to read"}
    except Exception as error:
        return {"error": f"cannot be read ({type(error).__name__}: {error})"}
