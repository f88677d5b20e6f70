"""The report: self-contained, escaped, the same for the same results, and its tables as the rows say."""

import json
import re

import pytest

from seka_rag.bench.curves import Entry
from seka_rag.bench.plots import position_plot
from seka_rag.bench.report import html, markdown, sections, write_report
from seka_rag.errors import RecordError

SETTINGS = {"method": "Seka", "gain": 1.0, "highlight": "gold"}


def row(method, metric, value, n=20, settings=None, model="m", task="conflict-rag", low=0.1, high=0.9):
    return {
        "task": task, "model": model, "method": method, "settings": settings or {}, "metric": metric, "n": n,
        "value": value, "low": low, "high": high,
    }  # fmt: skip


ROWS = [
    row("plain", "correction.right", 0.25),
    row("plain", "irrelevant.kl", 0.0, n=19, low=None, high=None),
    row("seka", "correction.right", 0.75, settings={**SETTINGS, "gain": 0.5}),
    row("seka", "irrelevant.kl", 0.2, settings={**SETTINGS, "gain": 0.5}),
    row("seka", "correction.right", 0.85, settings=SETTINGS),
    row("seka", "irrelevant.kl", 0.6, settings=SETTINGS),
    row("instruction", "correction.right", 0.3, settings={"before": "<b>Read</b> | this."}),
    row("plain", "all.right", 0.5, task="lost-in-the-middle"),
    row("plain", "position-9.right", 0.6, task="lost-in-the-middle"),
    row("plain", "position-0.right", 0.4, task="lost-in-the-middle"),
]
COMPARISON = {
    "task": "conflict-rag", "model": "m", "metric": "correction.right", "first": "plain {}",
    "second": f"seka {json.dumps(SETTINGS)}", "n": 20, "only_first": 1, "only_second": 13, "p": 0.0018,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(ROWS))
    (tmp_path / "comparisons.json").write_text(json.dumps([COMPARISON]))
    return tmp_path


def test_the_page_needs_nothing_from_outside_and_escapes(folder):
    page = html(sections(folder))
    assert not re.search(r'(?:src|href)="(?!#)', page.replace('xlink:href="#', 'xlink:href="#'))
    assert "<b>Read</b>" not in page
    assert "&lt;b&gt;Read&lt;/b&gt;" in page
    assert page.count("<svg") == 2  # one curve that has figures, one plot by position
    assert ".85<br><span>[.10, .90]</span>" in page
    assert "seka (gain 1)" in page
    assert "0.0018" in page
    assert page == html(sections(folder))


def test_a_position_is_a_whole_number():
    figures = {Entry.of("plain", {}): {f"position-{k}.right": 0.5 for k in (0, 4, 9, 14, 19)}}
    drawn = re.findall(r"<!-- ([\d.]+) -->", position_plot(figures, "right"))
    assert {"5", "10"} < set(drawn)
    assert not {"2.5", "12.5", "5.0"} & set(drawn)


def test_models_with_names_that_are_markup(folder):
    (folder / "results.json").write_text(json.dumps([{**r, "model": "<script>"} for r in ROWS]))
    assert "<script>" not in html(sections(folder))


def test_tables_for_the_docs(folder):
    text = markdown(sections(folder))
    assert "### conflict-rag, m" in text
    assert "| method | highlighted | correction.right (n = 20) | irrelevant.kl (n = 19-20) |" in text
    assert "| plain |  | .25 [.10, .90] | 0.00 [?, ?] |" in text
    assert "| seka (gain 0.5) | gold | .75 [.10, .90] | 0.20 [0.10, 0.90] |" in text
    assert "| instruction (“<b>Read</b> \\| this.”) |  | .30 [.10, .90] |  |" in text
    # straight from (0, .25) to (.2, .75): .50 at .1; from there to (.6, .85): .775 at .3
    assert re.search(
        r"correction.right at equal harm \(irrelevant.kl\):\n\n.*at 0.1 \| at 0.3 \|\n.*\n\| seka \| 0.50 \| 0.7[78] \|",
        text,
    )
    assert "| all.right (n = 20) | position-0.right (n = 20) | position-9.right (n = 20) |" in text


def test_experts_are_named_in_paired_tests(folder):
    pair = {**COMPARISON, "second": 'expert a {"gain": 1.0, "method": "AdaSeka"}'}
    (folder / "comparisons.json").write_text(json.dumps([pair]))
    assert "<td>expert a (gain 1)</td>" in html(sections(folder))


def test_files(folder):
    page, tables = write_report(folder)
    assert (page.name, tables.name) == ("report.html", "tables.md")
    (folder / "comparisons.json").unlink()
    with pytest.raises(RecordError, match="holds no results"):
        write_report(folder)
    (folder / "results.json").write_text("{}")
    with pytest.raises(RecordError, match="holds no results"):
        sections(folder)


@pytest.mark.parametrize("name", ["suggested", "default"])
def test_the_default_beside_the_best_other_method(folder, name):
    default, other = {"method": "KeyVector", "gain": 1.0, "highlight": "gold"}, {**SETTINGS, "gain": 0.5}
    rows = [
        *ROWS,
        row(name, "correction.right", 0.9, settings=default),
        row(name, "irrelevant.kl", 0.1, settings=default),
    ]  # fmt: skip
    pair = {
        **COMPARISON, "first": f"seka {json.dumps(other, sort_keys=True)}",
        "second": f"{name} {json.dumps(default, sort_keys=True)}", "only_first": 2, "only_second": 5, "p": 0.453125,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(rows))
    (folder / "comparisons.json").write_text(json.dumps([COMPARISON, pair]))
    said = f"{name} (gain 1) is ahead on 5, seka (gain 0.5) on 2, of 20"
    assert f"{said} (exact test, p = 0.45)." in markdown(sections(folder))
    assert said in html(sections(folder))
