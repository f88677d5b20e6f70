"""In the process that schedules: keys of the prefix cache, what was edited for each request, and a trial before the start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from seka_vllm.canary import check_steering
from seka_vllm.highlights import Highlights, read_highlights
from seka_vllm.patching import around
from seka_vllm.profiles import Profile, load_profiles
from seka_vllm.settings import KEY, engine_settings


class Progress:
    """What was edited so far of one request's prompt.

    Attributes:
        done: which positions of the prompt were computed, with their edits.
        first: the first position that was computed; those before it were in the prefix cache, with the same edits.
        routing: what a probe found.
        report: of what is done so far; None if it was not made since.
    """

    def __init__(self, highlights: Highlights, length: int) -> None:
        self.highlights, self.done, self.first = highlights, bytearray(length), length
        self.routing: list[float] | None = None
        self.report: dict[str, object] | None = None

    def add(self, start: int, stop: int) -> None:
        """These positions were computed in a step."""
        self.done[start:stop] = b"\x01" * (stop - start)
        self.first, self.report = min(self.first, start), None

    def counts(self) -> dict[str, int]:
        """Tokens marked; those edited, now or earlier; and those of them that came from the prefix cache."""
        places = [i for a, b, _ in self.highlights.spans for i in range(a, b)]
        cached = sum(i < self.first for i in places)
        edited = cached + sum(self.done[i] for i in places if i >= self.first)
        return {"tokens_marked": len(places), "tokens_edited": edited, "tokens_cached": cached}


class Reports:
    """Says of each request what was edited.

    Args:
        described: what each bank does, from the process that runs the model.
    """

    def __init__(self, profiles: Mapping[str, Profile], described: Mapping[str, Mapping[str, object]]) -> None:
        self.profiles, self.described = profiles, described

    def note(
        self,
        requests: Mapping[str, object],
        edited: Mapping[str, tuple[int, int]],
        routings: Mapping[str, list[float]] = MappingProxyType({}),
    ) -> None:
        """Take note of what one step computed, and of what its probes found."""
        for name, (start, stop) in edited.items():
            progress = _progress(requests[name]) if name in requests else None
            if progress is not None:
                progress.add(start, stop)
                progress.routing = routings.get(name, progress.routing)

    def news(self, progress: Progress) -> dict[str, object] | None:
        """The report of one request, if it is another than before: see ``of``."""
        if progress.report is not None:
            return None
        progress.report = self.of(progress)
        return progress.report

    def of(self, progress: Progress) -> dict[str, object]:
        """The report of one request, as ``SteeringReport.as_dict`` has it, and the tokens that were cached."""
        name = progress.highlights.bank_of(self.profiles)
        profile, about = self.profiles[name], self.described[name]
        strength = profile.strength(progress.highlights)
        fixed = {key: about[key] for key in ("method", "layers", "heads", "bank")}
        if progress.highlights.probe:
            return {**fixed, "gain": 0.0, **progress.counts(), "routing": progress.routing}
        counts = progress.counts() if strength else {**progress.counts(), "tokens_edited": 0, "tokens_cached": 0}
        experts = profile.weights(progress.highlights)
        return {
            **fixed,
            "gain": strength,
            **counts,
            "experts": experts,
            "warnings": profile.warnings(progress.highlights),
        }


def _progress(request: Any) -> Progress | None:
    """Of a request that the scheduler knows; made once, and kept with it."""
    if KEY not in vars(request):
        params = request.sampling_params
        highlights = read_highlights(params.extra_args) if params is not None else None
        request.seka = None if highlights is None else Progress(highlights, request.num_prompt_tokens)
    progress: Progress | None = request.seka
    return progress


def block_keys(request: Any, start: int, stop: int) -> list[tuple[str, str]]:
    """What of the steering belongs to the identity of a block: nothing where none of its tokens is highlighted.

    A block's identity holds that of the block before it, so what follows a highlight is kept apart as well, and what comes
    before the first one is shared with everybody.
    """
    progress = _progress(request)
    inside = progress.highlights.inside(start, stop) if progress is not None else ()
    if progress is None or not inside:
        return []
    asked = progress.highlights
    return [(KEY, repr((asked.bank, asked.strength, asked.routing, inside)))]


def patch() -> None:
    """Let vLLM's engine core and scheduler do it."""
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore

    keys_of_embeds = kv_cache_utils._gen_prompt_embeds_extra_hash_keys

    def keys(request: Any, start: int, stop: int) -> list[tuple[str, Any]]:
        return [*keys_of_embeds(request, start, stop), *block_keys(request, start, stop)]

    kv_cache_utils._gen_prompt_embeds_extra_hash_keys = keys

    @around(Scheduler, "update_from_output")
    def update_from_output(original: Any, self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
        reports: Reports | None = getattr(self, KEY, None)
        if reports is None:
            return original(self, scheduler_output, model_runner_output)
        routings = getattr(model_runner_output, f"{KEY}_routings", {})
        reports.note(self.requests, getattr(model_runner_output, KEY, {}), routings)
        steered = {
            name: progress
            for name in scheduler_output.num_scheduled_tokens
            if name in self.requests and (progress := _progress(self.requests[name])) is not None
        }
        outputs = original(self, scheduler_output, model_runner_output)
        if steered:
            for output in (output for client in outputs.values() for output in client.outputs):
                progress = steered.get(output.request_id)
                if progress is not None and (report := reports.news(progress)) is not None:  # the front end keeps it
                    output.kv_transfer_params = {**(output.kv_transfer_params or {}), KEY: report}
        return outputs

    # In a process of its own, the plugin is loaded by the constructor of EngineCore itself, which thus cannot be wrapped. Its
    # last attribute is set when everything is there and nothing is served yet.
    EngineCore._idle_state_callbacks = _Last("_idle_state_callbacks", _check_once)


class _Last:
    """An attribute that calls a function with the object, each time that it is set."""

    def __init__(self, name: str, function: Callable[[Any], None]) -> None:
        self.name, self.function = name, function

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        return self if owner is None else vars(owner)[self.name]

    def __set__(self, owner: Any, value: object) -> None:
        vars(owner)[self.name] = value
        self.function(owner)


def _check_once(core: Any) -> None:
    settings = engine_settings(core.vllm_config)
    if settings is not None:
        profiles = load_profiles(settings)
        check_steering(core, lambda described: Reports(profiles, described), profiles)
