"""A model that vLLM runs, seen from the text: prompts to tokens, calls to vLLM's parameters, its outputs to answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from seka_rag.errors import ContextLengthError, SettingError, SteeringError
from seka_rag.hf.chat import render_chat
from seka_rag.hf.forms import answer_form
from seka_rag.hf.tokens import TokenizedPrompt, tokenize
from seka_rag.hf.types import Tokenizer
from seka_rag.model.generation import Generation, finished
from seka_rag.model.scope import in_scope, messages_in_scope
from seka_rag.steering.base import SteeringMethod, SteeringReport
from seka_rag.steering.registry import as_steering
from seka_rag.text.prompt import Prompt
from seka_vllm.highlights import Highlights, read_highlights
from seka_vllm.profiles import Profile
from seka_vllm.settings import KEY

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

Input = Prompt | str | TokenizedPrompt
Steering = SteeringMethod | Literal["auto"] | None
#: Options of a call that go to vLLM under the same name; one of the first six means that tokens are drawn.
_DRAWING = ("temperature", "top_p", "top_k", "min_p")
OPTIONS = frozenset({*_DRAWING, "repetition_penalty", "seed", "stop", "max_new_tokens", "steering"})


@dataclass(frozen=True, eq=False)
class Served:
    """What must be known of a model to ask vLLM for its answers.

    Attributes:
        banks: those of the engine, by name; the first is the one that steers where none is named. Empty if it has none.
        context_length: most tokens of prompt and answer together.
        ends: tokens that end an answer.
    """

    name: str
    tokenizer: Tokenizer
    banks: Mapping[str, Profile]
    context_length: int
    ends: frozenset[int]

    @classmethod
    def of(cls, name: str, config: Any, tokenizer: Tokenizer, banks: Mapping[str, Profile]) -> Served:
        """Of a model that vLLM has loaded, from its ``ModelConfig``."""
        ends = (config.try_get_generation_config() or {}).get("eos_token_id")
        ends = tokenizer.eos_token_id if ends is None else ends
        of_text = frozenset([ends] if isinstance(ends, int) else ends or ())
        return cls(name, tokenizer, banks, config.max_model_len, of_text)

    @property
    def usual_steering(self) -> SteeringMethod | None:
        """How ``steering="auto"`` steers."""
        return next((profile.method for profile in self.banks.values()), None)

    @property
    def can_chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)

    # --- prompts

    def tokenize(self, prompt: Input) -> TokenizedPrompt:
        """As ``SteeredModel.tokenize``."""
        if isinstance(prompt, TokenizedPrompt):
            return prompt
        return tokenize(self.tokenizer, in_scope(prompt if isinstance(prompt, Prompt) else Prompt(prompt)))

    def tokenize_chat(self, messages: Sequence[Mapping[str, object]], **template: Any) -> TokenizedPrompt:
        """As ``SteeredModel.tokenize_chat``."""
        return render_chat(self.tokenizer, messages_in_scope(messages), **template).tokenize(self.tokenizer)

    # --- calls

    def params(
        self, tokens: TokenizedPrompt, options: Mapping[str, Any], count: int = 1, **more: object
    ) -> SamplingParams:
        """What vLLM is given for one prompt.

        Args:
            options: of a call, see ``VllmModel.generate``.
            count: how many answers.
            more: further parameters of vLLM.

        Raises:
            SettingError: an option that vLLM is not given here, or a method that is not one of the engine.
            SteeringError: highlights, and the engine has no bank.
            ContextLengthError: the prompt is empty, or does not fit with the answer.
        """
        from vllm import SamplingParams

        if unknown := sorted(options.keys() - OPTIONS):
            raise SettingError(
                f"a model in vLLM takes no option {', '.join(unknown)}: it takes {', '.join(sorted(OPTIONS))}"
            )
        new = options.get("max_new_tokens", 256)
        if not len(tokens):
            raise ContextLengthError("the prompt is empty: it has no tokens")
        if len(tokens) + new > self.context_length:
            raise ContextLengthError(
                f"the prompt has {len(tokens)} tokens and {new} new ones are asked for, but {self.name} has a context of "
                f"{self.context_length}. Shorten the prompt, or ask for fewer new tokens"
            )
        drawn = {name: options[name] for name in _DRAWING if options.get(name) is not None}
        given = {"temperature": 1.0, **drawn} if drawn else {"temperature": 0.0}
        given |= {name: options[name] for name in ("repetition_penalty", "seed") if options.get(name) is not None}
        stop = options.get("stop") or []
        highlights = self._highlights(tokens, options.get("steering", "auto"))
        return SamplingParams(
            n=count,
            max_tokens=new,
            stop=[stop] if isinstance(stop, str) else list(stop),
            extra_args=None if highlights is None else highlights.as_args(),
            **given,
            **more,
        )

    def probe(self, params: SamplingParams) -> SamplingParams | None:
        """The request that must come first, with the same prompt, if these parameters steer with experts; else None."""
        from vllm import SamplingParams

        highlights = read_highlights(params.extra_args)
        if highlights is None or not self._profile(highlights).experts:
            return None
        args = Highlights((), bank=highlights.bank, probe=True).as_args()
        return SamplingParams(max_tokens=1, temperature=0.0, extra_args=args)

    def route(self, params: SamplingParams, probed: RequestOutput) -> None:
        """Take the routing of a probe that was answered over into the parameters.

        Raises:
            SteeringError: it has none.
        """
        routing = ((probed.kv_transfer_params or {}).get(KEY) or {}).get("routing")
        highlights = read_highlights(params.extra_args)
        if routing is None or highlights is None:
            raise SteeringError("vLLM answered a probe without a routing, so the experts cannot be weighted")
        params.extra_args = replace(highlights, routing=tuple(routing)).as_args()

    def _profile(self, highlights: Highlights) -> Profile:
        return self.banks[highlights.bank_of(self.banks)]

    def _highlights(self, tokens: TokenizedPrompt, steering: object) -> Highlights | None:
        method = as_steering(steering)
        if method is None or not any(tokens.weights):
            return None
        if not self.banks:
            raise SteeringError(
                f"the prompt has highlights, but {self.name} runs without a bank: give bank=..., or steering=None to run "
                "unsteered"
            )
        if method == "auto":
            return Highlights.of_weights(tokens.weights)
        assert isinstance(method, SteeringMethod)
        for name, profile in self.banks.items():
            usual = profile.method
            if type(method) is type(usual) and method.with_strength(usual.strength) == usual:
                highlights = Highlights.of_weights(tokens.weights, method.strength, name)
                assert highlights is not None
                profile.check_strength(highlights)
                return highlights
        known = "; ".join(repr(profile.method) for profile in self.banks.values())
        raise SettingError(
            f"steering={method!r}: the methods of an engine are chosen at its start ({known}); a call can change the strength"
        )

    # --- answers

    def answers(self, tokens: TokenizedPrompt, options: Mapping[str, Any], output: RequestOutput) -> list[Generation]:
        """The answers to one prompt, each with the report.

        Raises:
            SteeringError: there are highlights, and nothing says that they were steered.
        """
        report = self.report(tokens, options, output.kv_transfer_params)
        form, stop = answer_form(self.tokenizer, _no_vocabulary), options.get("stop") or []
        return [
            finished(
                list(done.token_ids),
                form,
                stop=[stop] if isinstance(stop, str) else stop,
                ends=self.ends,
                prompt_tokens=len(tokens),
                report=report,
            )
            for done in output.outputs
        ]

    def report(
        self, tokens: TokenizedPrompt, options: Mapping[str, Any], beside: Mapping[str, Any] | None
    ) -> SteeringReport:
        """What was steered, by what vLLM gave beside an output."""
        steering, marked = options.get("steering", "auto"), sum(weight > 0 for weight in tokens.weights)
        told = (beside or {}).get(KEY)
        if steering is None or not marked:
            report = SteeringReport(warnings=list(tokens.warnings))
            if isinstance(steering, SteeringMethod):
                report.warnings.append("nothing is highlighted: the model runs unsteered")
            return report
        if told is None:
            raise SteeringError(
                "vLLM answered without a report, so nothing says that it steered: is its plugin switched off (VLLM_PLUGINS)?"
            )
        if told["tokens_edited"] != (marked if told["gain"] else 0):
            raise SteeringError(f"only {told['tokens_edited']} of {marked} highlighted tokens were steered")
        known = {field.name for field in fields(SteeringReport)}
        values = {name: value for name, value in told.items() if name in known}
        warnings = [*values.get("warnings", ()), *tokens.warnings]
        return SteeringReport(**{**values, "layers": tuple(values["layers"]), "warnings": warnings})


def _no_vocabulary() -> Any:
    raise AssertionError("without a grammar there is no use for the vocabulary")
