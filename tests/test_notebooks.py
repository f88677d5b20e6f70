"""Notebooks as they are committed: run from their sources, figures in texts that outputs show, no path of a machine."""

from __future__ import annotations

import ast
import json
import re

import pytest

from tools.notebooks import FOLDER, cells, quick, run_quickly, sources

SOURCES = {path.stem: path for path in sources()}
#: What a notebook that measures may import beside the users' doors.
ROOMS = ("seka_rag.views", "seka_rag.questions", "seka_rag.bench", "seka_rag.retrieval")
#: Figures in a text: decimals and shares.
NUMBER = re.compile(r"\d*\.\d+|\d+")
FIGURE = re.compile(r"(?<![\w./-])(?:\d+\.\d+|\.\d+|\d+ ?%)(?![\w/-])")


@pytest.fixture(params=sorted(SOURCES))
def committed(request):
    path = SOURCES[request.param]
    return path.read_text(encoding="utf-8"), json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))


def text_of(cell):
    return "".join(cell["source"])


def test_it_is_what_its_source_gives(committed):
    source, notebook = committed
    made = [("markdown" if c["cell_type"] == "markdown" else "code", text_of(c)) for c in notebook["cells"]]
    assert made == cells(source), "run: python -m tools.notebooks"
    assert all(c["execution_count"] for c in notebook["cells"] if c["cell_type"] == "code")


def test_no_path_of_a_machine_and_no_error_in_it(committed):
    _, notebook = committed
    everything = json.dumps(notebook)
    assert " at 0x" not in everything
    assert not re.findall(r"/(?:home|root|tmp|work|Users|usr|opt)/[\w./-]*", everything)
    assert '"output_type": "error"' not in everything


def test_it_stays_small(committed):
    _, notebook = committed
    for cell in notebook["cells"]:
        assert len(json.dumps(cell)) < 300_000


def figures_not_shown(notebook, code):
    """Figures of its texts that neither its outputs show, pictures and styles left out, nor its code holds, as numbers."""
    shown = code
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            plain = "".join(output.get("text", data.get("text/plain", "")))
            page = re.sub(r"(?s)<(style|script)\b.*?</\1>|<[^>]*>", " ", "".join(data.get("text/html", "")))
            shown += f" {plain} {page}"
    numbers = {float(number) for number in NUMBER.findall(shown)}
    texts = [re.sub(r"`[^`]*`", "", text_of(c)) for c in notebook["cells"] if c["cell_type"] == "markdown"]
    figures = [figure for text in texts for figure in FIGURE.findall(text)]
    return [figure for figure in figures if float(figure.strip(" %")) not in numbers]


def test_figures_in_its_texts_are_in_its_outputs(committed):
    source, notebook = committed
    code = "".join(text for kind, text in cells(source) if kind == "code")
    assert figures_not_shown(notebook, code) == []


@pytest.mark.parametrize("text", ["0.34 are right, of all", "34% are right", "from .34 to 0.5"])
def test_a_figure_that_differs_is_noticed(text):
    picture = {"data": {"image/png": "0.34", "text/html": "<b style='width:34%'>0.5</b><style>p{top:.34em}</style>"}}
    outputs = [{"text": ["0.345 and 0.3", "of 34.1\n"]}, picture]
    notebook = {"cells": [{"cell_type": "markdown", "source": text}, {"cell_type": "code", "outputs": outputs}]}
    wrong = [figure for figure in FIGURE.findall(text) if "34" in figure]
    assert figures_not_shown(notebook, "x = 1") == wrong
    assert wrong
    assert figures_not_shown(notebook, "x = 0.34 * 34") == []


@pytest.mark.parametrize("name", SOURCES)
def test_it_imports_from_the_doors(name):
    tree = ast.parse(SOURCES[name].read_text(encoding="utf-8"))
    deep = [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("seka_rag.")
    ]
    assert [module for module in deep if not module.startswith(ROOMS)] == []


def test_sizes_are_lowered_to_see_whether_the_code_runs():
    assert quick("N = 24  # size\nM = 3\n") == "N = 1  # size\nM = 3\n"
    assert all("  # size" in path.read_text(encoding="utf-8") for path in SOURCES.values())


SHOWN = "class Shown:\n    def _repr_html_(self):\n        raise KeyError('no picture')\n\n\nShown()"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("x = 1\ny = x.gone", "cell 1 fails with AttributeError"),
        ("1 / 0", "cell 1 fails with ZeroDivisionError"),
        (SHOWN, "cell 1 fails with KeyError: 'no picture'"),
    ],
)
def test_a_cell_that_no_longer_runs_is_named(code, error):
    with pytest.raises(RuntimeError, match=error):
        run_quickly(f"# %% [markdown]\n# Text.\n\n# %%\n{code}\n")
    run_quickly("# %%\nN = 24  # size\nassert N == 1\n\n# %%\nN + 1\n")


def test_annotations_are_evaluated_as_in_a_notebook():
    run_quickly("# %%\nclass A:\n    x: int\n\nassert A.__annotations__ == {'x': int}\n")


def test_cells_are_cut_at_their_marks():
    source = "# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n\n\n# %%\nx\n"
    assert cells(source) == [("markdown", "# Title\n\nText."), ("code", "x = 1"), ("code", "x")]
    assert FOLDER.is_dir()


@pytest.mark.parametrize(("name", "code"), [("start-here", "no such code"), ("nowhere", "show(")])
def test_a_page_that_shows_an_output_which_is_not_there_is_an_error(name, code):
    exceptions = pytest.importorskip("mkdocs.exceptions")
    from tools.notebook_pages import on_page_markdown, output_of

    assert output_of("start-here", "head_attention(reading)") == "nb-output-start-here-9-0"
    shown = on_page_markdown("a\n<!-- output of start-here: head_attention(reading) -->\nb", None, None, None)
    assert shown == "a\n\nnb-output-start-here-9-0\n\nb"
    with pytest.raises(exceptions.PluginError, match=name):
        output_of(name, code)
