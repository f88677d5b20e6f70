"""The banks of an engine, and what they do to the keys of each layer of its model."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from seka_rag.bank import Bank, load_bank
from seka_rag.errors import SettingError, UnsupportedModelError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.identity import identify
from seka_rag.hf.packaged import PACKAGED
from seka_rag.ops.edits import Edit
from seka_rag.ops.routing import RoutedEdit
from seka_rag.steering.adaseka import AdaSeka
from seka_rag.steering.base import SteeringMethod
from seka_rag.steering.key_editing import KeyEditing
from seka_rag.steering.registry import as_steering, suggested
from seka_rag.steering.report import mean_weights
from seka_rag.steering.strength import check_strength, strength_warnings
from seka_vllm.highlights import Highlights
from seka_vllm.settings import BankSettings, EngineSettings


@dataclass(frozen=True, eq=False)
class Profile:
    """A bank and the method that it steers with, which never changes; a request may have another strength.

    Attributes:
        fades: whether the bank suggests a method that puts keys back after a while, which vLLM does not do.
    """

    bank: Bank
    method: KeyEditing
    fades: bool

    @classmethod
    def load(cls, settings: BankSettings) -> Profile:
        """Read a bank.

        Raises:
            BankError: not a bank, damaged, or not of the kind that the method needs.
            SettingError: a method that needs more than a token's key or a probe tells, or that does nothing.
        """
        packaged = PACKAGED.get(settings.bank)
        bank = load_bank(packaged.bank if packaged else settings.bank)
        method = suggested(bank) if settings.steering is None else as_steering(settings.steering)
        assert isinstance(method, SteeringMethod)  # "auto" and None are no stored forms
        method.check(bank)
        if not isinstance(method, KeyEditing):
            raise SettingError(
                f"{settings.bank}: vLLM steers with a method that edits keys, such as KeyVector, KeyBias or Seka, and "
                f"{method!r} does not"
            )
        if isinstance(method, AdaSeka) and not method.two_pass:
            raise SettingError(
                f"{settings.bank}: AdaSeka routes by the prompt's last query, which is not there when vLLM computes the first "
                'keys. Take "two_pass": true, whose routing a probe request gives: {"method": "AdaSeka", "two_pass": true}'
            )
        if isinstance(method, AdaSeka) and method.mixed is not None:
            raise SettingError(
                f"{settings.bank}: vLLM mixes experts of projections only: leave mixed={method.mixed!r} out"
            )
        if settings.steering is not None and method.fade is not None:
            raise SettingError(
                f"{settings.bank}: fade={method.fade!r}, but vLLM's cache is not written back: leave it out"
            )
        if not method.strength:
            raise SettingError(f"{settings.bank}: the {method.strength_field} of its method is 0, so it steers nothing")
        return cls(bank, method.model_copy(update={"fade": None}), method.fade is not None)

    @cached_property
    def experts(self) -> dict[int, RoutedEdit]:
        """Layer -> edit whose weights ``[h, M]`` come from a probe; empty if the method routes nothing."""
        if not isinstance(self.method, AdaSeka):
            return {}
        assert isinstance(self.bank, AdaSeka.bank_type)
        return dict(sorted(self.method.edits(self.bank, None).items()))  # type: ignore[arg-type]  # it looks at no site

    def routing(self, weights: tuple[float, ...]) -> dict[int, Tensor]:
        """Layer -> weights of the experts ``[h, M]``, from those of all layers in a row.

        Raises:
            SettingError: there are too many or too few.
        """
        shapes = {layer: (len(e.heads), len(e.experts.names)) for layer, e in self.experts.items()}
        sizes = [heads * experts for heads, experts in shapes.values()]
        if len(weights) != sum(sizes):
            raise SettingError(
                f"seka_routing holds {len(weights)} weights of experts, and {self.bank!r} takes {sum(sizes)}: send those of "
                "the probe's report as they are"
            )
        parts = torch.split(torch.tensor(weights), sizes)
        return {layer: part.view(shapes[layer]) for layer, part in zip(shapes, parts, strict=True)}

    def strength(self, highlights: Highlights) -> float:
        """That of the request, or of the method."""
        return self.method.strength if highlights.strength is None else highlights.strength

    def factor(self, highlights: Highlights) -> float:
        """By what the edits, which are planned for the strength of the method, are multiplied."""
        return self.strength(highlights) / self.method.strength

    def check_strength(self, highlights: Highlights) -> None:
        """Refuse another strength than the method's where the edits are not in proportion to it.

        Raises:
            SettingError: so it is.
        """
        if self.strength(highlights) == self.method.strength or sum(map(bool, self.method.strengths)) == 1:
            return
        raise SettingError(
            f"the edits of {self.method!r} are not in proportion to its {self.method.strength_field}, so a request cannot "
            "change it: leave the strength out, or start the engine with another method"
        )

    def check(self, highlights: Highlights, model: Any) -> None:
        """Refuse a strength that cannot be, or that overflows in the dtype of the model (anything with ``dtype``).

        Raises:
            SettingError: says what the bank suggests; or a routing that is missing or is not one of this bank.
        """
        if highlights.probe or highlights.routing is not None:
            if not self.experts:
                raise SettingError(f"{self.bank!r} holds no experts: leave seka_probe and seka_routing out")
        elif self.experts:
            raise SettingError(
                "the experts are weighted by the prompt's last query: send the prompt with seka_probe first, and what its "
                "report has as routing with the highlights as seka_routing"
            )
        if highlights.probe:
            return
        if highlights.routing is not None:
            self.routing(highlights.routing)
        self.check_strength(highlights)
        method = self.method.with_strength(self.strength(highlights))
        check_strength(method, self.bank, max(w for *_, w in highlights.spans), model)

    def weights(self, highlights: Highlights) -> list[dict[str, float]]:
        """Expert -> mean weight over the steered heads, as a report has it: one entry, or none without experts."""
        if highlights.routing is None:
            return []
        names = next(iter(self.experts.values())).experts.names
        return mean_weights(names, {layer: alpha[None] for layer, alpha in self.routing(highlights.routing).items()})

    def warnings(self, highlights: Highlights) -> list[str]:
        """What the report of a request should say."""
        strength = self.strength(highlights)
        found = strength_warnings(self.method.with_strength(strength), self.bank)
        if not strength:
            found.append(f"the {self.method.strength_field} is 0: the model runs unsteered")
        if self.fades:
            found.append("the bank suggests fading, which vLLM does not do: the edited keys stay until the answer ends")
        return found


def load_profiles(settings: EngineSettings) -> dict[str, Profile]:
    """All banks of an engine by name, the first first.

    Raises:
        BankError, SettingError: names the bank.
    """
    return {name: Profile.load(bank) for name, bank in settings.banks.items()}


def plan_edits(profile: Profile, config: Any) -> Mapping[int, Edit]:
    """Layer -> edit at the strength of the method.

    Args:
        config: of transformers, of the engine's model.

    Raises:
        BankError: the bank was learned for another model.
        UnsupportedModelError: the method needs a query or a distance, which vLLM does not have when keys are computed, or it
            edits values.
    """
    profile.bank.model.check(identify(_without_weights(config)))
    edits = profile.method.edits(profile.bank, find_key_sites(_twin(config)))
    for edit in edits.values():
        if (edit.needs_query and not profile.experts) or edit.needs_distance:
            raise UnsupportedModelError(
                f"{profile.method!r} needs the end of the prompt, which is not there when vLLM computes the first keys: use "
                "KeyBias(form='constant'), KeyVector or Seka"
            )
        if edit.of_values is not None:
            raise UnsupportedModelError(f"{profile.method!r} edits values too, and in vLLM only keys can be edited")
    if not edits:
        raise UnsupportedModelError(f"the bank {profile.bank!r} keeps no head, so it steers nothing")
    return edits


def _without_weights(config: Any) -> Any:
    """A model of transformers whose weights have no values."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(deepcopy(config).get_text_config())


def _twin(config: Any) -> Any:
    """A small model of transformers with random weights that turns keys and weighs scores as the real one.

    A method may measure that (KeyBias does): it depends on heads and their size, the rotary settings and layer types, and not
    on the width of the layers.
    """
    from transformers import AutoModelForCausalLM

    small = deepcopy(config).get_text_config()
    head_dim = getattr(small, "head_dim", None) or small.hidden_size // small.num_attention_heads
    small.update({"head_dim": head_dim, "hidden_size": 64, "intermediate_size": 64, "vocab_size": 512})
    small.update(dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")))
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(small, dtype=torch.float32, attn_implementation="sdpa").eval()
