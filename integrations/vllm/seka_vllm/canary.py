"""Trial requests before an engine serves: if highlights do not take effect, it does not start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from seka_rag.errors import SettingError, SteeringError
from seka_vllm.highlights import Highlights
from seka_vllm.profiles import Profile
from seka_vllm.settings import KEY

log = logging.getLogger("vllm.seka")  # below vLLM's, so that it is written where vLLM's are
_SHOWN = ("method", "heads", "layers")
_LENGTH, _MARKED = 48, (16, 32)
_STEPS = 1000  # of the engine, until a trial request must be ready


def check_steering(core: Any, reports: Callable[[Mapping[str, Any]], object], banks: Mapping[str, Profile]) -> None:
    """Ask for one token, plain and steered with each bank; and look at how its blocks would be cached.

    Raises:
        SteeringError: the edits are not in the model, were not seen in all their layers, change nothing, were not reported,
            a probe gave no routing, or a steered block has the identity of a plain one.
    """
    (described, *others) = core.collective_rpc("seka_describe", kwargs={"forget": True})
    if described is None or any(other is None for other in others):
        raise SteeringError("the plugin is not active in the process that runs the model, so nothing would be steered")
    core.scheduler.seka = reports(described)
    plain, _ = _scores(core, None)
    noise = _distance(plain, _scores(core, None)[0])
    for bank, profile in banks.items():
        where = f"a trial request with the bank {bank!r}"
        routing = _routing(core, bank, profile, where)
        scores, report = _scores(core, Highlights(((*_MARKED, 1.0),), bank=bank, routing=routing))
        marked = _MARKED[1] - _MARKED[0]
        if report.get("tokens_edited") != marked:
            raise SteeringError(f"{where} reports {report.get('tokens_edited')} edited tokens of {marked}")
        if _distance(scores, plain) <= 10 * noise + 1e-6:
            raise SteeringError(f"{where} edited {marked} tokens, and the answer is as without")
        after = core.collective_rpc("seka_describe")
        seen = {layer for about in after for layer in about[bank]["seen"]}  # heads may be split among processes
        if missing := sorted(set(described[bank]["layers"]) - seen) if not described[bank]["fixed"] else []:
            raise SteeringError(f"{where} did not edit the keys of layers {missing}")
        log.info("bank %r steers: %s on %d heads of layers %s", bank, *(described[bank][k] for k in _SHOWN))
    if core.request_block_hasher is not None:
        _check_blocks(core, next(iter(banks)))


def _routing(core: Any, bank: str, profile: Profile, where: str) -> tuple[float, ...] | None:
    """What a probe gives for the trial prompt; None for a bank without experts."""
    if not profile.experts:
        return None
    _, report = _scores(core, Highlights((), bank=bank, probe=True))
    weights = report.get("routing") or ()
    try:
        profile.routing(tuple(weights))
    except SettingError as error:
        raise SteeringError(f"{where} was not routed: {error}") from None
    return tuple(weights)


def _distance(scores: list[float], others: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(scores, others, strict=True))


def _scores(core: Any, highlights: Highlights | None) -> tuple[list[float], dict[str, Any]]:
    """The largest log-probabilities after a fixed prompt that is not cached, and the report."""
    core.scheduler.reset_prefix_cache()
    request = _request(core, highlights, _LENGTH)
    core.add_request(request)
    for _ in range(_STEPS):
        outputs, _ = core.step_fn()
        for output in (o for client in (outputs or {}).values() for o in client.outputs):
            if output.request_id == request.request_id and output.new_logprobs is not None:
                scores = [float(value) for value in output.new_logprobs.logprobs[0]]
                _finish(core)
                core.scheduler.reset_prefix_cache()
                return scores, (output.kv_transfer_params or {}).get(KEY, {})
    raise SteeringError("a trial request was not answered")


def _finish(core: Any) -> None:
    """Let the engine forget what has ended."""
    for _ in range(_STEPS):
        if not core.scheduler.has_requests() and not core.batch_queue:
            return
        core.step_fn()


def _request(core: Any, highlights: Highlights | None, length: int) -> Any:
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    vocabulary = core.vllm_config.model_config.get_vocab_size()
    params = SamplingParams(
        max_tokens=1, temperature=0.0, logprobs=5, ignore_eos=True, extra_args=highlights and highlights.as_args()
    )
    request = EngineCoreRequest(
        request_id=f"seka-trial-{id(params)}",
        prompt_token_ids=[(7919 * i + 13) % vocabulary for i in range(length)],
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    return core.preprocess_add_request(request)[0]


def _check_blocks(core: Any, bank: str) -> None:
    length = 3 * core.vllm_config.cache_config.block_size
    plain = _request(core, None, length).block_hashes
    steered = _request(core, Highlights(((0, 1, 1.0),), bank=bank), length).block_hashes
    if not plain or set(plain) & set(steered):
        raise SteeringError("a steered block would be kept in the prefix cache as if it were plain")
