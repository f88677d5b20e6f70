"""The page of published results is written from their rows, and is what these rows say."""

import json
import shlex

from tools.benchmark_page import DATA, DOCS, page, publish, wrapped


def row(method, metric, value, **settings):
    return {
        "task": "counterfact", "model": "m", "method": method, "settings": settings, "metric": metric, "n": 20,
        "value": value, "low": 0.1, "high": 0.9,
    }  # fmt: skip


def test_rows_are_published_and_shown(tmp_path):
    folder = tmp_path / "first-tokens"
    folder.mkdir()
    rows = [row("plain", "ES.first", 0.25), row("plain", "ES.margin", 1.5), row("seka", "ES.first", 0.75, gain=1.0)]
    (folder / "results.json").write_text(json.dumps(rows))
    (folder / "comparisons.json").write_text("[]")
    (folder / "run.json").write_text(
        json.dumps({"commands": ["seka-rag bench counterfact --model m"], "cost": "7 CPU minutes"})
    )
    publish(folder, tmp_path / "data")
    kept = json.loads((tmp_path / "data" / "first-tokens" / "results.json").read_text())
    assert kept == [rows[0], rows[2]]  # what no table shows is left out
    text = page("# A\n\n<!-- results: first-tokens -->\nold\n<!-- end of results -->\n\nrest", tmp_path / "data")
    assert text.startswith(
        "# A\n\n<!-- results: first-tokens -->\n<!-- not run: 7 CPU minutes -->\n```sh\nseka-rag bench"
    )
    assert text.endswith("<!-- end of results -->\n\nrest")
    assert "old" not in text
    assert "| plain |  | .25 [.10, .90] |" in text
    assert page(text, tmp_path / "data") == text


def test_the_published_page_is_what_its_rows_say():
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    assert page(text) == text
    for folder in DATA.glob("*/"):
        assert f"<!-- results: {folder.name} -->" in text


def test_a_long_command_is_broken_into_lines_that_a_shell_reads_as_one():
    command = f"seka-rag bench counterfact --model m --methods {','.join(['plain'] * 30)} --out folder"
    lines = wrapped(command).splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 80
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(command)
    assert wrapped("seka-rag bench") == "seka-rag bench"


def test_default_highlights_raise_no_attack_and_follow_honest_passages():
    """What the page about highlighting says, of the published rows: its table is theirs."""
    rows = json.loads((DATA / "poison-held-out" / "results.json").read_text(encoding="utf-8"))
    found = {(r["method"], r["settings"].get("highlight"), r["metric"]): r for r in rows}
    plain, default, trusted = ("plain", None), ("default", "sentences"), ("default", "trusted")
    text = (DOCS.parent / "how-to" / "highlight.md").read_text(encoding="utf-8")
    for metric, ways in (
        ("poisoned.other", (plain, default, trusted)),
        ("poisoned.right", (plain, default, trusted)),
        ("honest.right", (plain, default)),
    ):
        figures = [found[(*way, metric)] for way in ways]
        cells = [f"{r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}]".replace("0.", ".") for r in figures]
        assert f"(n = {figures[0]['n']}) | {' | '.join(cells)}" in text
    assert found[(*default, "poisoned.other")]["value"] <= found[(*plain, "poisoned.other")]["value"]
    assert found[(*default, "honest.right")]["value"] >= found[(*plain, "honest.right")]["value"] - 0.03
    wrong = found["default", "wrong", "poisoned.other"]["value"]
    assert f"says what it wants in {wrong:.0%} of" in text.replace("\n", " ")
