"""What every steering method shares: a frozen configuration, and ``steer``, the door for any transformers code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from seka_rag.bank import ProjectionBank
from seka_rag.errors import BankError, SteeringError
from seka_rag.hf.hooks import Marks, editing
from seka_rag.hf.identity import identify
from seka_rag.hf.sites import KeySites, find_key_sites
from seka_rag.ops.projection import KeyEdit


class KeySteering(BaseModel, ABC):
    """A method that edits the keys of highlighted tokens, with a gain.

    Attributes:
        gain: strength; 0 leaves the model exactly as it is, negative values turn attention away.
        layers: layer ids to steer; None for all that the bank has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gain: float = Field(default=1.0, allow_inf_nan=False)
    layers: tuple[int, ...] | None = None

    @abstractmethod
    def edits(self, bank: ProjectionBank) -> dict[int, KeyEdit]:
        """Layer -> edit; a layer that is not edited is absent."""

    def chosen(self, bank: ProjectionBank) -> list[int]:
        """The bank's layers that this method is to steer.

        Raises:
            BankError: a layer was named that the bank does not have.
        """
        if self.layers is None:
            return list(bank.positive)
        missing = sorted(set(self.layers) - set(bank.positive))
        if missing:
            raise BankError(f"layers {missing} were asked for; the bank has layers {list(bank.positive)}")
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
        warnings: what the caller should know.
    """

    method: str = "none"
    gain: float = 0.0
    tokens_marked: int = 0
    tokens_edited: int = 0
    layers: tuple[int, ...] = ()
    heads: int = 0
    bank: str | None = None
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, for metadata and logs. It holds no text of any document."""
        return {**asdict(self), "layers": list(self.layers)}


@contextmanager
def steer(hf_model: nn.Module, bank: ProjectionBank, mask: Tensor, method: KeySteering) -> Iterator[SteeringReport]:
    """Steer every forward pass of ``hf_model`` inside the ``with``, in this thread.

    Args:
        hf_model: a transformers model; it is given back untouched.
        bank: learned for this model.
        mask: ``[B, T]`` over the whole prompt, padding included: bool, or float weights. Beams and several returned
            sequences may repeat the rows.
        method: how to steer.

    Yields:
        A report; ``tokens_edited`` is filled in when the block ends.

    Raises:
        BankError: the bank belongs to another model.
        UnsupportedModelError: the family is not known.
        SteeringError: on leaving, if a highlighted token was never seen by a forward pass (none ran here, another
            thread ran it, or the tokens were in a cache already): nothing is silently unsteered.
    """
    sites = find_key_sites(hf_model)
    bank.model.check(identify(hf_model))
    marks = Marks(mask)
    edits = method.edits(bank)
    report = SteeringReport(
        method=type(method).__name__,
        gain=method.gain,
        tokens_marked=len(marks),
        layers=tuple(edits),
        heads=sum(len(e.heads) for e in edits.values()),
        bank=bank.digest,
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
    with editing(sites, marks, edits) as tally:
        yield report
    report.tokens_edited = tally.edited(marks)
    if report.tokens_edited < len(marks) or set(tally.layers) != set(edits):
        raise SteeringError(_why(sites, marks, report.tokens_edited, tally.seen, mask))


def _why(sites: KeySites, marks: Marks, edited: int, seen: list[tuple[int, int]], mask: Tensor) -> str:
    if not seen:
        return (
            "steering was asked for, but no forward pass over the prompt ran inside the `with` in this thread, or the "
            "whole prompt was in the cache already. Open the `with` in the thread that generates, around the prefill"
        )
    first = min(start for start, _ in seen)
    return (
        f"only {edited} of {len(marks)} highlighted tokens were steered: forward passes began at position {first} of a mask "
        f"of {mask.shape[1]} positions. The mask must cover the whole prompt, cached prefix included, and highlighted "
        "tokens must be computed inside the `with`"
    )


def relative_edit(edits: dict[int, KeyEdit], keys: dict[int, Tensor]) -> float:
    """Mean of ``||delta k|| / ||k||`` over layers, heads and tokens: how strong an edit is, whatever its method.

    Args:
        edits: layer -> edit.
        keys: layer -> keys ``[n, H, D]``.
    """
    ratios = []
    for layer, edit in edits.items():
        k = keys[layer].float()[:, edit.heads]
        delta = torch.einsum("nhd,hde->nhe", k, edit.matrix())
        ratios.append((delta.norm(dim=-1) / k.norm(dim=-1).clamp_min(1e-12)).flatten())
    return float(torch.cat(ratios).mean()) if ratios else 0.0
