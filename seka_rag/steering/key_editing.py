"""Methods that edit the keys of highlighted tokens, once, at prefill."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from seka_rag.bank import Bank
from seka_rag.errors import BankError, SteeringError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import editing
from seka_rag.hf.marks import Marks, Tally
from seka_rag.hf.sites import KeySites
from seka_rag.ops.edits import Edit
from seka_rag.steering.base import SteeringMethod
from seka_rag.steering.plans import plan
from seka_rag.steering.report import SteeringReport


class KeyEditing(SteeringMethod):
    """A method whose whole effect is in the keys of the highlighted tokens.

    Attributes:
        layers: layer ids to steer; None for all that the bank has.
    """

    layers: tuple[int, ...] | None = None

    @abstractmethod
    def edits(self, bank: Any, sites: KeySites) -> Mapping[int, Edit]:
        """Layer -> edit; a layer that is not edited is absent.

        Args:
            bank: of the kind that the method needs.
            sites: of the model, for a method that must know more than the bank holds.
        """

    def chosen(self, bank: Bank, layers: Sequence[int] | None = None) -> list[int]:
        """The bank's layers that this method is to steer.

        Args:
            layers: those that the method can choose from; by default all that the bank has.

        Raises:
            BankError: a layer was named that the bank does not have.
        """
        known = list(bank.layers if layers is None else layers)
        if self.layers is None:
            return known
        missing = sorted(set(self.layers) - set(known))
        if missing:
            raise BankError(f"layers {missing} were asked for; the bank has layers {known}")
        return sorted(set(self.layers))

    @contextmanager
    def attach(
        self, hf_model: nn.Module, bank: Bank, marks: Marks, report: SteeringReport, prepared: Any = None
    ) -> Iterator[None]:
        sites = find_key_sites(hf_model)
        edits = plan(self, bank, sites)
        report.layers, report.heads = tuple(edits), sum(len(e.heads) for e in edits.values())
        if sites.warning:
            report.warnings.append(sites.warning)
        if not edits:
            report.warnings.append("the bank keeps no head in these layers: the model runs unsteered")
            yield
            return
        with editing(sites, marks, edits, prepared, hf_model) as tally:
            yield
        report.tokens_edited = tally.edited(marks, edits)
        self.complete(report, edits, marks, tally)
        if report.tokens_edited < len(marks):
            raise SteeringError(_why(marks, edits, tally))

    def complete(self, report: SteeringReport, edits: Mapping[int, Any], marks: Marks, tally: Tally) -> None:
        """Add to the report what is the method's own, when all is done.

        Args:
            edits: as planned.
            tally: ``states`` holds what the edits read from queries, layer -> ``[B, h, ...]``.
        """

    def check_prefix(self, hf_model: nn.Module, bank: Bank) -> None:
        if any(edit.needs_query or edit.needs_distance for edit in plan(self, bank, find_key_sites(hf_model)).values()):
            raise SteeringError(
                f"{type(self).__name__} needs the end of the whole prompt, which a prefix does not hold: its last token says "
                "how the highlights are edited. Highlight only what follows the prefix, or use a method that does not need "
                "it, such as Seka (with one of the experts) or KeyBias(form='constant')"
            )


def _why(marks: Marks, edits: Mapping[int, Edit], tally: Tally) -> str:
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
