"""In the process that runs the model: edits are put into it when it is loaded, and every step says which tokens are edited."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seka_rag.errors import UnsupportedModelError
from seka_rag.ops.edits import Edit
from seka_vllm.families import check_engine, family_of
from seka_vllm.highlights import Highlights, read_highlights
from seka_vllm.patching import around
from seka_vllm.profiles import Profile, load_profiles, plan_edits
from seka_vllm.rotary import Gates, SteeredRotary
from seka_vllm.settings import KEY, engine_settings

_KEPT = 1024  # routings that are kept as tensors


class Steering:
    """The banks in one loaded model.

    Attributes:
        edits: bank -> layer -> edit, of the whole model, at the strength of the bank's method.
        gates: what the current step edits.
        edited: request -> positions of its prompt ``(start, stop)`` that the current step computes, if it has highlights or is
            a probe.
    """

    def __init__(self, profiles: Mapping[str, Profile], edits: Mapping[str, Mapping[int, Edit]], gates: Gates) -> None:
        self.profiles, self.edits, self.gates = profiles, edits, gates
        self._number = {name: i for i, name in enumerate(profiles)}
        self.edited: dict[str, tuple[int, int]] = {}
        self._routings: dict[tuple[str, tuple[float, ...]], dict[int, Tensor]] = {}

    def begin(self, runner: Any, scheduled: Any) -> None:
        """Say which tokens the step edits, of those that are scheduled for each request of the batch."""
        rows: list[tuple[int, int, int, float]] = []
        routings: list[Mapping[int, Tensor] | None] = []
        probes: dict[str, tuple[int, int]] = {}
        batch, row, self.edited = runner.input_batch, 0, {}
        for i, (request, count) in enumerate(zip(batch.req_ids, scheduled.tolist(), strict=False)):
            highlights = _highlights_of(runner.requests[request])
            if highlights is not None:
                start, length = int(batch.num_computed_tokens_cpu[i]), int(batch.num_prompt_tokens[i])
                if start < length:
                    self.edited[request] = (start, min(start + count, length))
                    rows += self._rows(highlights, *self.edited[request], row)
                    routing = self._routing(highlights)
                    routings += [routing] * (len(rows) - len(routings))
                    if highlights.probe and start + count >= length:
                        probes[request] = self._number[highlights.bank_of(self.profiles)], row + length - 1 - start
            row += count
        self.gates.probes, self.gates.found = probes, {}
        self.gates.fill(rows, row, routings)

    def routings(self) -> dict[str, list[float]]:
        """Request -> weights of the experts of all layers in a row, of the probes that the step completed."""
        found = self.gates.found.items()
        return {name: [w for layer in sorted(of) for w in of[layer].flatten().tolist()] for name, of in found}

    def _routing(self, highlights: Highlights) -> Mapping[int, Tensor] | None:
        if highlights.routing is None:
            return None
        key = highlights.bank_of(self.profiles), highlights.routing
        if key not in self._routings:  # a prompt comes in several steps
            if len(self._routings) >= _KEPT:
                self._routings.clear()
            self._routings[key] = self.profiles[key[0]].routing(highlights.routing)
        return self._routings[key]

    def _rows(self, highlights: Highlights, start: int, stop: int, row: int) -> Iterator[tuple[int, int, int, float]]:
        name = highlights.bank_of(self.profiles)
        factor = self.profiles[name].factor(highlights)
        for first, end, weight in highlights.inside(start, stop):
            yield self._number[name], row + first, row + end, weight * factor

    def describe(self) -> dict[str, dict[str, object]]:
        """What each bank does, for reports: method, gain, layers, heads and digest; and which layers it was seen to edit."""
        return {
            name: {
                "method": type(profile.method).__name__,
                "gain": profile.method.strength,
                "layers": list(self.edits[name]),
                "heads": sum(len(edit.heads) for edit in self.edits[name].values()),
                "bank": profile.bank.digest,
                "seen": sorted(layer for bank, layer in self.gates.seen if bank == self._number[name]),
                "fixed": self.gates.fixed,
            }
            for name, profile in self.profiles.items()
        }


def _highlights_of(state: Any) -> Highlights | None:
    """Of a request that the runner knows; read once, and kept with it."""
    if KEY not in vars(state):
        params = state.sampling_params
        state.seka = read_highlights(params.extra_args) if params is not None else None
    highlights: Highlights | None = state.seka
    return highlights


def prepare(config: Any) -> tuple[dict[str, Profile], dict[str, Mapping[int, Edit]]] | None:
    """The engine's banks and their edits, before its model is loaded, which takes long; None if it has no banks.

    Raises:
        SekaError: they cannot be, so the engine must not start.
    """
    settings = engine_settings(config)
    if settings is None:
        return None
    check_engine(config)
    profiles = load_profiles(settings)
    if any(profile.experts for profile in profiles.values()):
        _check_experts(config)
    return profiles, {name: plan_edits(profile, config.model_config.hf_config) for name, profile in profiles.items()}


def install(runner: Any, profiles: dict[str, Profile], edits: dict[str, Mapping[int, Edit]]) -> None:
    """Put the edits into a model that was loaded.

    Raises:
        UnsupportedModelError: it is not built as its family is.
    """
    config = runner.vllm_config
    # a compiled graph is kept on disk: it must not serve a bank with other heads
    config.additional_config[f"{KEY}_digests"] = [profile.bank.digest for profile in profiles.values()]
    compilation = config.compilation_config
    fixed = compilation.mode.name != "NONE" or compilation.cudagraph_mode.name != "NONE"
    rows = max(config.scheduler_config.max_num_batched_tokens, compilation.max_cudagraph_capture_size or 0)
    gates = Gates(len(profiles), rows, runner.device, fixed=fixed)
    _wrap(runner.model, runner.model_config, [edits[name] for name in profiles], gates)
    runner.seka = Steering(profiles, edits, gates)


def _check_experts(config: Any) -> None:
    """Experts are routed in Python, by the queries of all heads.

    Raises:
        UnsupportedModelError: a compiled model, CUDA graphs, or heads that are split among processes.
    """
    if not config.model_config.enforce_eager:
        raise UnsupportedModelError("AdaSeka was shown to work in an eager engine alone: start it with --enforce-eager")
    if config.parallel_config.tensor_parallel_size > 1:
        raise UnsupportedModelError("AdaSeka was not shown to work with tensor parallelism")


def _wrap(model: nn.Module, model_config: Any, edits: list[Mapping[int, Edit]], gates: Gates) -> None:
    from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size

    text = model_config.hf_text_config
    family, heads, head_dim = (
        family_of(text.model_type),
        model_config.get_total_num_kv_heads(),
        model_config.get_head_size(),
    )
    process, processes = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
    place = re.compile(rf"(?:^|\.)layers\.(\d+)\.{re.escape(family.attention)}$")
    attentions = {
        int(found[1]): module
        for name, module in model.named_modules()
        if (found := place.search(name)) and hasattr(module, family.rotary)
    }
    if sorted(attentions) != list(range(text.num_hidden_layers)):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not built as {text.model_type} models of vLLM are: of "
            f"{text.num_hidden_layers} layers, {len(attentions)} have {family.attention}.{family.rotary}"
        )
    for layer, attention in attentions.items():
        count = getattr(attention, family.count)
        first = process * heads // processes
        here = [_present(plan.get(layer), range(first, first + count)) for plan in edits]
        if any(edit is not None for edit in here):
            setattr(
                attention, family.rotary, SteeredRotary(getattr(attention, family.rotary), layer, here, gates, head_dim)
            )


def _present(edit: Edit | None, held: range) -> Edit | None:
    if edit is None or not edit.kept(held).any():
        return None
    return edit.of_heads(held)


def patch() -> None:
    """Let vLLM's model runners do it."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner
    from vllm.v1.worker.worker_base import WorkerBase

    for kind in (GPUModelRunner, CPUModelRunner):

        @around(kind, "load_model")
        def load_model(original: Any, self: Any, *args: object, **kwargs: object) -> Any:
            with torch.inference_mode(False), torch.no_grad():
                prepared = prepare(self.vllm_config)
            loaded = original(self, *args, **kwargs)
            if prepared is not None:
                with torch.inference_mode(False), torch.no_grad():
                    install(self, *prepared)
            return loaded

    @around(GPUModelRunner, "_prepare_inputs")
    def _prepare_inputs(original: Any, self: Any, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        prepared = original(self, scheduler_output, num_scheduled_tokens)
        steering = getattr(self, "seka", None)
        if steering is not None:
            steering.begin(self, num_scheduled_tokens)
        return prepared

    @around(GPUModelRunner, "sample_tokens")
    def sample_tokens(original: Any, self: Any, *args: object, **kwargs: object) -> Any:
        output = original(self, *args, **kwargs)
        steering = getattr(self, "seka", None)
        if steering is not None and steering.edited and output is not None:
            result = getattr(output, "_model_runner_output", output)  # inside of one that is still being computed
            result.seka, result.seka_routings = steering.edited, steering.routings()
            steering.edited = {}
        return output

    def describe(self: Any, *, forget: bool = False) -> dict[str, dict[str, object]] | None:
        steering = getattr(self.model_runner, "seka", None)
        if steering is not None and forget:
            steering.gates.seen.clear()
        return None if steering is None else steering.describe()

    WorkerBase.seka_describe = describe
