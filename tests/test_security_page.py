"""The page of threats names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_promise_names_tests_that_exist():
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    promised = page.split("## Promised")[1].split("## Not promised")[0]
    rows = [line for line in promised.splitlines() if line.startswith("| ") and not line.startswith("| threat")]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)`", row)
        assert named, row
        assert all((ROOT / name).is_file() for name in named), named
