"""In the process that takes requests: what cannot be steered is refused there, with a message for the client."""

from __future__ import annotations

from typing import Any

from seka_rag.errors import SekaError, SettingError, UnsupportedModelError
from seka_vllm.highlights import read_highlights
from seka_vllm.patching import around
from seka_vllm.profiles import load_profiles
from seka_vllm.settings import KEY, engine_settings


def check_request(processor: Any, request: Any) -> None:
    """Refuse highlights that do not fit the prompt or the engine.

    Raises:
        SekaError: says which.
    """
    params = request.sampling_params
    length = len(request.prompt_token_ids or ())
    highlights = read_highlights(params.extra_args, length) if params is not None else None
    if highlights is None:
        return
    settings = engine_settings(processor.vllm_config)
    if settings is None:
        raise SettingError("the request has highlights, and this engine was started without a bank (additional_config)")
    if highlights.bank is not None and highlights.bank not in settings.banks:
        raise SettingError(f"there is no bank {highlights.bank!r}: this engine has {', '.join(settings.banks)}")
    if request.resumable or request.prompt_embeds is not None:
        raise UnsupportedModelError("highlights need a prompt of tokens that is there as a whole")
    if not hasattr(processor, KEY):
        processor.seka = load_profiles(settings)
    processor.seka[highlights.bank or settings.first].check(highlights, processor.model_config)


def patch() -> None:
    """Let vLLM's input processor do it."""
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.input_processor import InputProcessor

    @around(InputProcessor, "process_inputs")
    def process_inputs(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        request = original(self, *args, **kwargs)
        try:
            check_request(self, request)
        except SekaError as error:
            raise VLLMValidationError(str(error), parameter="seka_spans") from error
        return request
