"""vLLM's API server with one bank: what ``seka-rag serve --backend vllm`` runs.

``python -m seka_vllm.launch MODEL BANK OPTIONS``: the options are vLLM's. Several banks, or a method that a bank does not
suggest, are given to vLLM itself (docs/how-to/vllm.md).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

from seka_rag.errors import SekaError, SettingError
from seka_vllm.profiles import load_profiles
from seka_vllm.settings import KEY, EngineSettings, bank_settings, model_folder


def server(
    model: str, bank: str, options: Sequence[str], environment: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """The command of the server, and its environment.

    Raises:
        SettingError: no bank ships with the model; or the options hold additional settings, which would replace the bank.
        SekaError: the bank cannot be, which is found here and not only when an engine has started.
    """
    if any(option.replace("_", "-").startswith("--additional-config") for option in options):
        raise SettingError(
            "--additional-config would replace the bank: start vLLM's server itself, with the banks in that option "
            "(docs/how-to/vllm.md)"
        )
    settings = bank_settings(model, bank)
    load_profiles(EngineSettings.model_validate(settings))
    plugins = [name for name in environment.get("VLLM_PLUGINS", "").split(",") if name]
    given = {
        "VLLM_PLUGINS": ",".join(plugins if KEY in plugins else [*plugins, KEY]),  # without its name, no routes
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # the other one is not steered
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model_folder(model)]
    return [*command, "--additional-config", json.dumps({KEY: settings}), *options], {**environment, **given}


def main(arguments: Sequence[str]) -> None:
    """Become the server."""
    model, bank, *options = arguments
    try:
        command, environment = server(model, bank, options, os.environ)
    except SekaError as error:
        sys.exit(f"error: {error}")
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main(sys.argv[1:])
