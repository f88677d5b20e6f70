"""Keys fail closed: an empty one is an error, one of several can be revoked, and what a header can carry is understood."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError
from serving import running, web
from typer.testing import CliRunner

from seka_rag.errors import SettingError
from seka_rag.server import ServerSettings, keys
from seka_rag.server.keys import Keys
from seka_rag.server.settings import clean_key

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.mark.parametrize("empty", ["", " ", "\n", "\t \n"])
def test_an_empty_key_is_an_error(empty):
    from seka_rag.cli import app

    with pytest.raises(ValidationError, match="api_key is empty"):
        ServerSettings(api_key=SecretStr(empty))
    for arguments, environment in ((["--api-key", empty], {}), ([], {"SEKA_API_KEY": empty})):
        done = CliRunner().invoke(app, ["serve", "seka-demo", *arguments], env={"COLUMNS": "200", **environment})
        assert done.exit_code == 1
        assert "--api-key (or SEKA_API_KEY) is empty" in done.output


@pytest.mark.parametrize("bad", ["a b", "a\nb", "a\x00b", "a\x7f"])
def test_a_key_that_no_header_carries_is_an_error(bad):
    with pytest.raises(SettingError, match="white space or control characters"):
        clean_key(bad, "it")


def test_white_space_at_its_ends_is_left_out_with_a_note(monkeypatch, capsys):
    from seka_rag.cli import serve

    assert clean_key(" sesame\r\n", "it") == "sesame"
    assert ServerSettings(api_key="sesame\n").api_key.get_secret_value() == "sesame"
    monkeypatch.setenv("SEKA_API_KEY", "sesame\n")
    assert serve._key(None) == "sesame"
    assert "white space at the ends" in capsys.readouterr().err


def test_a_key_beyond_ascii(demo):
    """Clients write it as UTF-8 or as Latin-1."""
    with running(demo, api_key="Schlüssel") as url:

        def status(value):
            return web.get(url + "/models", headers={"Authorization": b"Bearer " + value}).status_code

        assert status("Schlüssel".encode()) == status("Schlüssel".encode("latin-1")) == 200
        assert status(b"Schl\xfcsse") == status(b"Schlussel") == 401


def test_keys_with_names_and_one_is_revoked(demo, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(keys, "_CHECK_EVERY", 0)  # it is looked at once a second
    file = tmp_path / "keys"
    file.write_text("# who may ask\nalice  a-key \n\nbob\tb-key\n")
    caplog.set_level("INFO", "seka_rag.server")
    with running(demo, keys_file=file, api_key="main") as url:

        def ask(key):
            headers = {"Authorization": f"Bearer {key}"}
            return web.post(url + "/completions", json={"prompt": "x", "max_tokens": 1}, headers=headers).status_code

        assert [ask(key) for key in ("a-key", "b-key", "main", "alice", "x")] == [200, 200, 200, 401, 401]
        file.write_text("alice a-key\n")
        assert [ask(key) for key in ("a-key", "b-key", "main")] == [200, 401, 200]
        file.write_text("nothing\n")
        assert [ask(key) for key in ("a-key", "b-key", "main")] == [503, 503, 503]
        file.write_text("carol c-key\n")
        assert [ask(key) for key in ("a-key", "c-key")] == [401, 200]
    assert "a-key" not in caplog.text
    assert '"key": "alice"' in caplog.text
    assert "line 1 of" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("# alice key\n", "holds no key"),
        ("alice\n", "line 1 of"),
        ("al/ice key\n", "line 1 of"),
        ("a x\na y\n", "two keys of the name 'a'"),
        ("a x y\n", "white space"),
        (b"\xff x\n", "cannot read"),
        (None, "cannot read"),
    ],
)
def test_a_file_of_keys_that_is_none(tmp_path, text, message):
    file = tmp_path / "keys"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingError, match=message):
        Keys(None, file)


def test_without_keys_everybody_gets_in():
    assert Keys(None, None).name_of(b"") is None
    assert Keys(None, None).name_of(b"Bearer x") is None
