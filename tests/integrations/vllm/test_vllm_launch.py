"""The command that ``seka-rag serve --backend vllm`` becomes: vLLM's server with one bank. vLLM is not needed."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from seka_vllm.launch import main, server
from seka_vllm.settings import bank_settings, engine_settings, model_folder
from tiny import random_bank, tiny_model

from seka_rag.errors import BankError, SettingError


@pytest.fixture(scope="module")
def bank_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    random_bank(tiny_model("llama")).save(folder)
    return str(folder)


def test_the_server_has_the_bank_the_plugin_and_the_options(bank_folder):
    command, environment = server("my-model", bank_folder, ["--port", "9000"], {"PATH": "/bin"})
    start = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "my-model", "--additional-config"]
    assert command[:6] == start
    settings = engine_settings(SimpleNamespace(additional_config=json.loads(command[6])))
    assert (settings.banks["main"].bank, settings.banks["main"].steering) == (bank_folder, None)
    assert command[7:] == ["--port", "9000"]
    assert environment == {"PATH": "/bin", "VLLM_PLUGINS": "seka", "VLLM_USE_V2_MODEL_RUNNER": "0"}


@pytest.mark.parametrize(("given", "plugins"), [("", "seka"), ("other", "other,seka"), ("seka,other", "seka,other")])
def test_other_plugins_stay(bank_folder, given, plugins):
    _, environment = server("my-model", bank_folder, [], {"VLLM_PLUGINS": given})
    assert environment["VLLM_PLUGINS"] == plugins


def test_what_cannot_be_is_one_line_before_vllm_starts(bank_folder, tmp_path):
    with pytest.raises(SettingError, match="--additional-config would replace the bank"):
        server("my-model", bank_folder, ["--additional_config={}"], {})
    with pytest.raises(BankError, match="nowhere"):
        server("my-model", str(tmp_path / "nowhere"), [], {})
    with pytest.raises(SystemExit, match="error: no bank ships with my-model"):
        main(["my-model", "auto", "--port", "9000"])


def test_the_bank_that_ships():
    assert bank_settings("smollm2", "auto") == {"banks": {"main": {"bank": "smollm2", "steering": None}}}
    assert model_folder("my/model") == "my/model"
