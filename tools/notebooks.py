"""Notebooks from their sources: ``examples/notebooks/NAME.py`` becomes ``NAME.ipynb``, run, with its outputs.

    python -m tools.notebooks            # all, written with their outputs
    python -m tools.notebooks start      # those whose names contain this
    python -m tools.notebooks --quick    # run the code of all with the smallest sizes and write nothing: does it still run?

A source is Python that a reader can review: ``# %%`` begins a cell of code, ``# %% [markdown]`` one of text, in comments.
A line ``N = 8  # size`` is a size, which ``--quick`` sets to 1.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "notebooks"
_LIMIT = 1200  # seconds of one cell, on a busy machine


def sources() -> list[Path]:
    """The sources in the order of their numbers."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def cells(source: str) -> list[tuple[str, str]]:
    """The cells of a source as ``(kind, text)``, kind "markdown" or "code"."""
    found = []
    for part in re.split(r"^# %%", source, flags=re.M)[1:]:
        head, _, body = part.partition("\n")
        kind = "markdown" if head.strip() == "[markdown]" else "code"
        body = body.strip("\n")
        found.append((kind, re.sub(r"^# ?", "", body, flags=re.M) if kind == "markdown" else body))
    return found


def quick(source: str) -> str:
    """The same with the smallest sizes."""
    return re.sub(r"^(\w+ = )\d+(  # size)", r"\g<1>1\2", source, flags=re.M)


def notebook(source: str) -> Any:
    """A notebook without outputs; cells are named by their place, so equal sources give equal notebooks."""
    import nbformat.v4 as v4

    made = [
        (v4.new_markdown_cell if kind == "markdown" else v4.new_code_cell)(text, id=f"cell-{i}")
        for i, (kind, text) in enumerate(cells(source))
    ]
    return v4.new_notebook(cells=made, metadata={"language_info": {"name": "python"}})


def run(source: str) -> Any:
    """The notebook with its outputs, run in the folder of the notebooks.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    import nbclient

    made = notebook(source)
    nbclient.NotebookClient(
        made, timeout=_LIMIT, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    for cell in made.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = _tidy(cell.outputs)
    made.metadata = {"language_info": {"name": "python"}}
    return made


def run_quickly(source: str) -> None:
    """Run the code with the smallest sizes in this process, whose imports are shared, and make what the cells would show.

    Raises:
        RuntimeError: a cell fails; says which, and the cause is its error.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, (kind, text) in enumerate(cells(quick(source))):
        if kind == "code":
            *body, last = ast.parse(f"{text}\nNone").body  # None, which is shown if the cell ends in no expression
            if body and isinstance(body[-1], ast.Expr):
                last = body.pop()
            assert isinstance(last, ast.Expr)
            try:
                # dont_inherit: annotations are evaluated in a notebook, which this module defers
                exec(compile(ast.Module(body, []), f"cell {number}", "exec", dont_inherit=True), names)
                shown = eval(compile(ast.Expression(last.value), f"cell {number}", "eval", dont_inherit=True), names)
                getattr(shown, "_repr_html_", str)()
            except Exception as error:
                raise RuntimeError(f"cell {number} fails with {type(error).__name__}: {error}\n\n{text}") from error


def _tidy(outputs: list[Any]) -> list[Any]:
    """Without what bars and libraries write to stderr, and addresses; what was printed in pieces as one."""
    found: list[Any] = []
    for output in outputs:
        if "text/plain" in output.get("data", {}):
            output.data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", output.data["text/plain"])
        if output.output_type != "stream":
            found.append(output)
        elif output.name == "stdout" and found and found[-1].output_type == "stream":
            found[-1].text += output.text
        elif output.name == "stdout":
            found.append(output)
    return found


def main(*arguments: str) -> None:
    """Run notebooks; see the module."""
    import nbformat

    names = [a for a in arguments if not a.startswith("--")]
    for path in sources():
        if names and not any(name in path.name for name in names):
            continue
        start, source = (time.monotonic(), _cpu()), path.read_text(encoding="utf-8")
        if "--quick" in arguments:
            os.chdir(FOLDER)
            with contextlib.redirect_stdout(io.StringIO()):
                run_quickly(source)
        else:
            nbformat.write(run(source), path.with_suffix(".ipynb"))
        print(f"{path.stem}: {time.monotonic() - start[0]:.0f} s, {_cpu() - start[1]:.0f} of a core", flush=True)


def _cpu() -> float:
    """Seconds that this process and its children have computed."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main(*sys.argv[1:])
