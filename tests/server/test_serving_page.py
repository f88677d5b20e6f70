"""The examples of the page about serving run."""

import json
import re
from pathlib import Path

import pytest
from serving import web

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
PAGE = (Path(__file__).resolve().parents[2] / "docs/how-to/serve.md").read_text()
HERE = "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE, re.S))
def test_python(code, url, capsys):
    assert HERE in code
    exec(code.replace(HERE, url), {})
    printed = capsys.readouterr().out
    assert "Lyon" in printed or "tokens_marked" in printed


def test_curl(url):
    body = json.loads(re.search(r"-d '(\{.*?\})'\n", PAGE, re.S).group(1))
    assert HERE + "/chat/completions" in PAGE
    answer = web.post(url + "/chat/completions", json=body).json()
    span = body["seka"]["spans"][0]
    assert body["messages"][0]["content"][span["start"] : span["end"]] == "The home of Alec is in Lyon."
    assert answer["seka"]["tokens_edited"] == 8
