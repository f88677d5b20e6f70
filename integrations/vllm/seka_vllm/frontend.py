"""In the process that takes requests: what cannot be steered is refused, each output gets its request's report, and both are
counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seka_rag.errors import SekaError, SettingError, UnsupportedModelError
from seka_vllm.highlights import read_highlights
from seka_vllm.metrics import Metrics
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


def with_report(request: Any, beside: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What goes beside an output of a request: the last report too, since each may be the last that the client reads.

    The scheduler sends a report when it is new. To send it with each token costs more than the token.
    """
    if beside and KEY in beside:
        request.seka = beside[KEY]
    report = getattr(request, KEY, None)
    return beside if report is None else {**(beside or {}), KEY: report}


def patch() -> None:
    """Let vLLM's input and output processors do it."""
    metrics = Metrics()
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.output_processor import RequestState

    @around(InputProcessor, "process_inputs")
    def process_inputs(original: Any, self: Any, *args: object, **kwargs: object) -> Any:
        request = original(self, *args, **kwargs)
        try:
            check_request(self, request)
        except SekaError as error:
            metrics.refused.inc()
            raise VLLMValidationError(str(error), parameter="seka_spans") from error
        return request

    @around(RequestState, "make_request_output")
    def make_request_output(
        original: Any,
        self: Any,
        new_token_ids: object,
        pooling_output: object,
        finish_reason: object,
        stop_reason: object,
        kv_transfer_params: Mapping[str, Any] | None = None,
        *args: object,
        **kwargs: object,
    ) -> Any:
        beside = with_report(self, kv_transfer_params)
        if finish_reason is not None and beside and KEY in beside:
            metrics.count(beside[KEY])
        return original(self, new_token_ids, pooling_output, finish_reason, stop_reason, beside, *args, **kwargs)
