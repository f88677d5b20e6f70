"""A hook of mkdocs: the committed notebooks as pages of the docs, their outputs as they are. Nothing is run.

Any page can show an output as well: ``<!-- output of NAME: CODE -->`` on a line stands for the view or picture of the first
cell of the notebook NAME whose source holds CODE.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "notebooks"
_SHOWN = re.compile(r"^<!-- output of ([\w-]+): (.+) -->$", re.M)
_outputs: dict[str, str] = {}  # placeholder -> HTML, which Markdown must not touch


def on_files(files: Files, config: Any) -> Files:
    """Add ``notebooks/NAME.md`` for each notebook."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        name = re.sub(r"^\d+-", "", path.stem)
        text = page(json.loads(path.read_text(encoding="utf-8")), name)
        files.append(File.generated(config, f"notebooks/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """A placeholder for each output of a notebook that the page shows."""
    return _SHOWN.sub(lambda m: f"\n{output_of(m[1], m[2])}\n", markdown)


def output_of(name: str, code: str) -> str:
    """The placeholder of a picture or view in a notebook.

    Raises:
        PluginError: no cell with this code has one, which fails the build.
    """
    for path in FOLDER.glob(f"*-{name}.ipynb"):
        for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            if cell["cell_type"] == "code" and code in "".join(cell["source"]):
                for j, output in enumerate(cell["outputs"]):
                    if not {"text/html", "image/png"}.isdisjoint(output.get("data", {})):
                        return f"nb-output-{name}-{i}-{j}"
    raise PluginError(f"no notebook {name!r} has a cell with {code!r} that shows a picture")


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """Put the outputs in."""
    return re.sub(r"<p>(nb-output-[\w-]+)</p>", lambda m: _outputs.get(m[1], m[0]), content)


def page(notebook: dict[str, Any], name: str) -> str:
    """A notebook as Markdown, with a placeholder for each output."""
    parts: list[str] = []
    for i, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for j, output in enumerate(cell["outputs"]):
            if shown := _html(output):
                _outputs[f"nb-output-{name}-{i}-{j}"] = shown
                parts.append(f"nb-output-{name}-{i}-{j}")
    link = "https://github.com/seka-rag/seka-rag/tree/main/examples/notebooks"
    parts.insert(1, f"*A notebook of [examples/notebooks]({link}), with the outputs that `make notebooks` gave.*")
    return "\n\n".join(parts) + "\n"


def _html(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "text/html" in data:
        return "".join(data["text/html"])
    if "image/png" in data:
        png = "".join(data["image/png"]).strip()
        return f'<img alt="output of the cell above" src="data:image/png;base64,{png}">'
    text = "".join(output.get("text") or data.get("text/plain") or ())
    if not text.strip():
        return ""
    return f'<pre class="output"><code>{html.escape(text.rstrip())}</code></pre>'
