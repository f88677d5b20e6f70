"""Methods that edit the keys of highlighted tokens, and perhaps their values, once, at prefill."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from seka_rag.bank import Bank
from seka_rag.errors import BankError, SteeringError
from seka_rag.hf.fading import Fading, Until
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import editing
from seka_rag.hf.marks import Marks, Tally
from seka_rag.hf.sites import KeySites
from seka_rag.hf.types import Tokenizer
from seka_rag.ops.edits import Edit
from seka_rag.steering.base import SteeringMethod
from seka_rag.steering.plans import plan
from seka_rag.steering.report import SteeringReport
from seka_rag.text.sentences import sentences


@dataclass(frozen=True)
class Prepared:
    """What ``prepare`` found out.

    Attributes:
        states: layer -> what the edits read from queries ``[B, h, ...]``, as of ``route``; None if they are to read it
            in the same pass.
        sentence_is_over: says it of the tokens of an answer.
    """

    states: Mapping[int, Tensor] | None = None
    sentence_is_over: Callable[[list[int]], bool] | None = None


class KeyEditing(SteeringMethod):
    """A method whose whole effect is in the keys of the highlighted tokens, or in their keys and values.

    Attributes:
        layers: layer ids to steer; None for all that the bank has.
        fade: when the originals go back into the cache: after so many tokens of the answer, or at the end of its first
            "sentence"; None for never. The tokens until then are chosen as if there were no fading.
    """

    layers: tuple[int, ...] | None = None
    fade: Annotated[int, Field(ge=1)] | Literal["sentence"] | None = None

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

    def prepare(
        self,
        hf_model: nn.Module,
        bank: Any,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> Prepared:
        """What the edits read from queries by a pass of their own (of most: nothing), and how the answer's text is known."""
        states = self.read_states(hf_model, bank, input_ids, attention_mask)
        return Prepared(states, None if tokenizer is None else partial(_first_sentence_is_over, tokenizer))

    def read_states(
        self, hf_model: nn.Module, bank: Any, input_ids: Tensor, attention_mask: Tensor | None
    ) -> Mapping[int, Tensor] | None:
        """What the edits are to know of queries before they take place: layer -> ``[B, h, ...]``; None if nothing."""
        return None

    @contextmanager
    def attach(
        self,
        hf_model: nn.Module,
        bank: Bank,
        marks: Marks,
        report: SteeringReport,
        prepared: Prepared | Mapping[int, Tensor] | None = None,
    ) -> Iterator[None]:
        given = prepared if isinstance(prepared, Prepared) else Prepared(prepared)
        sites = find_key_sites(hf_model)
        edits = plan(self, bank, sites)
        report.layers, report.heads = tuple(edits), sum(len(e.heads) for e in edits.values())
        if sites.warning:
            report.warnings.append(sites.warning)
        if not edits:
            report.warnings.append("the bank keeps no head in these layers: the model runs unsteered")
            yield
            return
        fading = None if self.fade is None else Fading(sites, self._until(given), marks.length)
        with editing(sites, marks, edits, given.states, hf_model, fading) as tally:
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

    def _until(self, given: Prepared) -> Until:
        if self.fade != "sentence":
            assert self.fade is not None
            return self.fade
        if given.sentence_is_over is None:
            raise SteeringError(
                "fade='sentence' must read the answer: pass prepared=method.prepare(hf_model, bank, input_ids, "
                "attention_mask, tokenizer). SteeredModel does this by itself"
            )
        return given.sentence_is_over

    def for_prefix(self) -> SteeringMethod:
        return self.model_copy(update={"fade": None})  # the cache is shared, so it is not written

    def check_prefix(self, hf_model: nn.Module, bank: Bank) -> None:
        if self.fade is not None:
            raise SteeringError(
                "fading puts keys back into the cache of one answer, and a prefix is there for several. Highlight only what "
                "follows the prefix, or use fade=None"
            )
        if any(edit.needs_query or edit.needs_distance for edit in plan(self, bank, find_key_sites(hf_model)).values()):
            raise SteeringError(
                f"{type(self).__name__} needs the end of the whole prompt, which a prefix does not hold: its last token says "
                "how the highlights are edited. Highlight only what follows the prefix, or use a method that does not need "
                "it, such as Seka (with one of the experts) or KeyBias(form='constant')"
            )


def _first_sentence_is_over(tokenizer: Tokenizer, answer: list[int]) -> bool:
    """Whether a second sentence or line has begun."""
    text = tokenizer.decode(answer, skip_special_tokens=True).lstrip()
    return "\n" in text or len(sentences(text)) > 1


def _why(marks: Marks, edits: Mapping[int, Edit], tally: Tally) -> str:
    if not tally.seen:
        return (
            "steering was asked for, but no forward pass over the prompt ran inside the `with` in this thread, or the "
            "whole prompt was in the cache already. Open the `with` in the thread that generates, around the prefill; a "
            "manager of continuous batching must be opened inside it, and its requests added in this thread"
        )
    skipped = [
        layer
        for layer, edit in edits.items()
        if layer not in tally.done or (edit.of_values is not None and layer not in tally.values)
    ]
    if tally.done and skipped:
        return (
            f"the forward passes over the prompt did not compute the keys (or values) of layers {skipped} at their site"
        )
    return (
        f"only {tally.edited(marks, edits)} of {len(marks)} highlighted tokens were steered: forward passes began at "
        f"position {min(tally.seen)} of a mask of {marks.length} positions. The mask must cover the whole prompt, "
        "cached prefix included, and highlighted tokens must be computed inside the `with`"
    )
