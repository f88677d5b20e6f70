"""What every steering method shares: a frozen configuration, and ``steer``, the door for any transformers code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from seka_rag.bank import ExpertBank, ProjectionBank
from seka_rag.errors import BankError, SettingError, SteeringError, UnsupportedModelError
from seka_rag.hf.hooks import LayerEdit, editing
from seka_rag.hf.identity import identify
from seka_rag.hf.marks import Marks, Mask, Tally
from seka_rag.hf.sites import find_key_sites
from seka_rag.ops.routing import RoutedEdit
from seka_rag.steering.plans import plan


class KeySteering(BaseModel, ABC):
    """A method that edits the keys of highlighted tokens, with a gain.

    Attributes:
        gain: strength; 0 leaves the model exactly as it is, negative values turn attention away.
        layers: layer ids to steer; None for all that the bank has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    bank_type: ClassVar[type] = ProjectionBank

    gain: float = Field(default=1.0, allow_inf_nan=False)
    layers: tuple[int, ...] | None = None

    @abstractmethod
    def edits(self, bank: Any) -> Mapping[int, LayerEdit]:
        """Layer -> edit; a layer that is not edited is absent. The bank is of the kind that the method needs."""

    def chosen(self, bank: ProjectionBank | ExpertBank) -> list[int]:
        """The bank's layers that this method is to steer.

        Raises:
            BankError: a layer was named that the bank does not have.
        """
        if self.layers is None:
            return list(bank.layers)
        missing = sorted(set(self.layers) - set(bank.layers))
        if missing:
            raise BankError(f"layers {missing} were asked for; the bank has layers {list(bank.layers)}")
        return sorted(set(self.layers))


@dataclass
class SteeringReport:
    """What was asked for and what took place.

    Attributes:
        method, gain: how.
        tokens_marked: highlighted tokens in the prompt(s).
        tokens_edited: those whose keys were edited; known when the ``with`` ends.
        layers: edited layers; ``heads``: how many key-value heads in them.
        bank: digest of the bank.
        experts: with experts, for each row of the batch: name -> mean weight over the steered heads.
        routing: with experts, layer -> weights ``[B, h, M]`` over the steered heads of the layer and all experts.
        warnings: what the caller should know.
    """

    method: str = "none"
    gain: float = 0.0
    tokens_marked: int = 0
    tokens_edited: int = 0
    layers: tuple[int, ...] = ()
    heads: int = 0
    bank: str | None = None
    experts: list[dict[str, float]] = field(default_factory=list)
    routing: dict[int, Tensor] = field(default_factory=dict, repr=False)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, for metadata and logs. It holds no text of any document, and no tensors."""
        plain = asdict(replace(self, routing={}))
        del plain["routing"]
        return {**plain, "layers": list(self.layers)}

    def of_row(self, row: int, marked: int) -> SteeringReport:
        """The report of one row of the batch, which has this many highlighted tokens: all of them are edited or none."""
        routing = {layer: alpha[row : row + 1] for layer, alpha in self.routing.items()}
        return replace(
            self,
            tokens_marked=marked if self.tokens_marked else 0,
            tokens_edited=marked if self.tokens_edited else 0,
            experts=self.experts[row : row + 1],
            routing=routing,
        )


@contextmanager
def steer(
    hf_model: nn.Module,
    bank: ProjectionBank | ExpertBank,
    mask: Mask,
    method: KeySteering,
    *,
    routing: Mapping[int, Tensor] | None = None,
) -> Iterator[SteeringReport]:
    """Steer every forward pass of ``hf_model`` inside the ``with``, in this thread.

    Args:
        hf_model: a transformers model; it is given back untouched.
        bank: learned for this model.
        mask: ``[B, T]`` over the whole prompt, padding included: bool, or float weights. Beams and several returned
            sequences may repeat the rows. For continuous batching (``generate_batch``, or a manager that is opened and closed
            inside the ``with``), which has no padding, a list of rows, each as long as its request, in their order.
        method: how to steer.
        routing: weights of the experts, from ``route``; a method with ``two_pass`` needs them.

    Yields:
        A report; ``tokens_edited`` is filled in when the block ends.

    Raises:
        BankError: the bank belongs to another model, or is not of the kind that the method needs.
        UnsupportedModelError: the family is not known, or the model is run in a way that cannot be steered.
        SteeringError: on leaving, if a highlighted token was never seen by a forward pass (none ran here, another
            thread ran it, or the tokens were in a cache already): nothing is silently unsteered.
    """
    if not isinstance(method, KeySteering):
        raise SettingError(f"method={method!r}: give a method such as Seka(gain=0.5)")
    if not isinstance(bank, ProjectionBank | ExpertBank):
        raise BankError(f"bank={bank!r}: give a loaded bank (ProjectionBank.load, or load_bank for either kind)")
    if not isinstance(bank, method.bank_type):
        raise BankError(
            f"{type(method).__name__} takes a bank of type {method.bank_type.__name__}, and this is of type "
            f"{type(bank).__name__}: AdaSeka chooses among the banks of an ExpertBank, other methods take one of them "
            "(experts['name'], or AdaSeka(expert='name'))"
        )
    if getattr(getattr(hf_model, "active_peft_config", None), "is_prompt_learning", False):
        raise UnsupportedModelError(
            "this PEFT model puts learned tokens before the prompt, so positions are not those of the mask; adapters that "
            "change weights (LoRA and the like) can be steered"
        )
    sites = find_key_sites(hf_model)
    identity = identify(hf_model, remembered=True)
    bank.model.check(identity)
    marks = Marks(mask)
    edits = plan(method, bank)
    if routing is None and getattr(method, "two_pass", False) and len(marks) and edits:
        raise SteeringError(
            "two_pass routes by an unsteered pass over the prompt: pass routing=route(hf_model, bank, method, input_ids, "
            "attention_mask). SteeredModel does this by itself"
        )
    report = SteeringReport(
        method=type(method).__name__,
        gain=method.gain,
        tokens_marked=len(marks),
        layers=tuple(edits),
        heads=sum(len(e.heads) for e in edits.values()),
        bank=bank.digest,
        warnings=bank.model.doubts(identity),
    )
    if sites.warning:
        report.warnings.append(sites.warning)
    if not len(marks):
        report.warnings.append("nothing is highlighted: the model runs unsteered")
    elif not edits:
        reason = "the gain is 0" if method.gain == 0 else "the bank keeps no head in these layers"
        report.warnings.append(f"{reason}: the model runs unsteered")
    if not len(marks) or not edits:
        yield report
        return
    with editing(sites, marks, edits, routing, hf_model) as tally:
        yield report
    report.tokens_edited = tally.edited(marks, edits)
    if isinstance(bank, ExpertBank):
        report.routing = {  # beams repeat each row
            layer: alpha.cpu()[:: max(1, len(alpha) // marks.batch)] for layer, alpha in sorted(tally.routing.items())
        }
        names = next((e.experts.names for e in edits.values() if isinstance(e, RoutedEdit)), ())
        report.experts = mean_weights(names, report.routing)
    if report.tokens_edited < len(marks):
        raise SteeringError(_why(marks, edits, tally))


def mean_weights(names: Sequence[str], routing: Mapping[int, Tensor]) -> list[dict[str, float]]:
    """For each row, name of the expert -> mean weight over layers and heads.

    Args:
        routing: layer -> weights ``[B, h, M]``, as ``route`` gives them.
    """
    if not routing:
        return []
    means = torch.cat([alpha.cpu() for alpha in routing.values()], 1).mean(1)  # [B, M]
    return [dict(zip(names, row, strict=True)) for row in means.tolist()]


def _why(marks: Marks, edits: Mapping[int, LayerEdit], tally: Tally) -> str:
    if not tally.seen:
        return (
            "steering was asked for, but no forward pass over the prompt ran inside the `with` in this thread, or the "
            "whole prompt was in the cache already. Open the `with` in the thread that generates, around the prefill; a "
            "manager of continuous batching must be opened inside it, and its requests added in this thread"
        )
    skipped = [layer for layer in edits if layer not in tally.done]
    if tally.done and skipped:
        return f"the forward passes over the prompt did not compute the keys of layers {skipped} at their site"
    return (
        f"only {tally.edited(marks, edits)} of {len(marks)} highlighted tokens were steered: forward passes began at "
        f"position {min(tally.seen)} of a mask of {marks.length} positions. The mask must cover the whole prompt, "
        "cached prefix included, and highlighted tokens must be computed inside the `with`"
    )
