"""What every steering method is: a frozen configuration that attaches itself to a model; and ``steer``, which does it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from seka_rag.bank import Bank, ProjectionBank
from seka_rag.errors import BankError, SettingError, SteeringError, UnsupportedModelError
from seka_rag.hf.identity import identify
from seka_rag.hf.marks import Marks, Mask, Tally
from seka_rag.hf.types import Tokenizer
from seka_rag.steering.report import SteeringReport
from seka_rag.steering.strength import check_strength, strength_warnings

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SteeringMethod", "SteeringReport", "steer"]


class SteeringMethod(BaseModel, ABC):
    """One way of steering: its fields are its settings, which do not change.

    A method edits keys (``KeyEditing``), or whatever else ``attach`` does. ``steer``, the models, the command line, the
    integrations and the server know methods only by what is here.

    Attributes:
        bank_type: the kind of bank that it takes; None if it needs none.
        strength_field: which of its fields is its strength; 0 there leaves the model exactly as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    bank_type: ClassVar[type | None] = ProjectionBank
    strength_field: ClassVar[str] = "gain"

    @abstractmethod
    def attach(
        self, hf_model: nn.Module, bank: Any, marks: Marks, report: SteeringReport, prepared: Any = None
    ) -> AbstractContextManager[None]:
        """Steer every forward pass of the model inside the ``with``, in this thread; on leaving, nothing stays.

        Args:
            bank: of the kind that ``check`` accepts, and of this model.
            marks: the highlighted tokens; there are some.
            report: to be completed: ``tokens_edited``, ``layers``, ``heads``, ``warnings``.
            prepared: what ``prepare`` returned; None if it was not called.

        Raises:
            SteeringError: on leaving, if a highlighted token was not steered.
        """

    def prepare(
        self,
        hf_model: nn.Module,
        bank: Any,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> Any:
        """What the method must know of the prompts before it is attached, by a pass of its own; most need nothing: None.

        Args:
            input_ids: ``[B, T]`` whole prompts, on the model's device.
            attention_mask: ``[B, T]``, 0 for padding on either side.
            tokenizer: of the model, for a method that reads the answer as it is generated.
        """
        return None

    def check(self, bank: Any) -> None:
        """Raise unless this is a bank that the method can use.

        Raises:
            BankError: no bank, or one of another kind.
        """
        if self.bank_type is None or isinstance(bank, self.bank_type):
            return
        name, wanted = type(self).__name__, self.bank_type.__name__
        if not hasattr(bank, "steering"):
            raise BankError(f"bank={bank!r}: give a loaded bank ({wanted}.load, or load_bank for any kind)")
        raise BankError(
            f"{name} takes a bank of type {wanted}, and this is of type {type(bank).__name__}: AdaSeka chooses among the "
            "banks of an ExpertBank, other methods take one of them (experts['name'], or AdaSeka(expert='name'))"
        )

    def for_prefix(self) -> SteeringMethod:
        """The same method as far as a shared beginning can hold what it does; used where none was named."""
        return self

    def check_prefix(self, hf_model: nn.Module, bank: Any) -> None:
        """Raise unless what the method does to a beginning of a prompt stays in its cache, whatever follows.

        Raises:
            SteeringError: it does not, or it depends on what follows.
        """
        raise SteeringError(
            f"{type(self).__name__} does not change the keys of the prompt, so a prefix cannot hold what it does. Highlight "
            "only what follows the prefix"
        )

    @property
    def strength(self) -> float:
        """The value of the field that is its strength."""
        return float(getattr(self, self.strength_field))

    @property
    def strengths(self) -> tuple[float, ...]:
        """All numbers that say how much the model is changed: if all are 0, it is not."""
        return (self.strength,)

    def with_strength(self, value: float) -> Self:
        """The same method with another strength.

        Raises:
            ValidationError: not a finite number (of pydantic, as where the method is made).
        """
        return type(self)(**{**dict(self), self.strength_field: value})

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return sorted(super().__repr_args__(), key=lambda item: item[0] != self.strength_field)  # the strength first

    def as_dict(self) -> dict[str, object]:
        """Plain data that ``seka_rag.steering.registry`` reads back.

        Raises:
            SettingError: it holds something that cannot be stored.
        """
        return {"method": type(self).__name__, **self.model_dump(mode="json")}


def report_held(report: SteeringReport, marks: Marks, tally: Tally, layers: Iterable[int]) -> None:
    """Complete the report of a method that edits no keys: its tokens are those that passes of all these layers held.

    Raises:
        SteeringError: a highlighted token was in none.
    """
    report.tokens_edited = tally.held(marks, layers)
    if report.tokens_edited < len(marks):
        raise SteeringError(
            f"only {report.tokens_edited} of {len(marks)} highlighted tokens were in a forward pass inside the `with`, in "
            "this thread. Open it in the thread that generates, around the prefill; the mask must cover the whole prompt"
        )


@contextmanager
def steer(
    hf_model: nn.Module, bank: Bank | None, mask: Mask, method: SteeringMethod, *, prepared: Any = None
) -> Iterator[SteeringReport]:
    """Steer every forward pass of ``hf_model`` inside the ``with``, in this thread.

    Args:
        hf_model: a transformers model; it is given back untouched.
        bank: learned for this model; None for a method that needs none.
        mask: ``[B, T]`` over the whole prompt, padding included: bool, or float weights. Beams and several returned
            sequences may repeat the rows. For continuous batching (``generate_batch``, or a manager that is opened and closed
            inside the ``with``), which has no padding, a list of rows, each as long as its request, in their order.
        method: how to steer.
        prepared: what ``method.prepare(hf_model, bank, input_ids, attention_mask)`` returned; a method with ``two_pass``
            needs it, and one that fades with the "sentence" (with ``tokenizer``).

    Yields:
        A report; ``tokens_edited`` is filled in when the block ends.

    Raises:
        BankError: the bank belongs to another model, or is not of the kind that the method needs.
        UnsupportedModelError: the family is not known, or the model is run in a way that cannot be steered.
        SettingError: a strength that overflows in the model's dtype.
        SteeringError: on leaving, if a highlighted token was never seen by a forward pass (none ran here, another
            thread ran it, or the tokens were in a cache already): nothing is silently unsteered.
    """
    if not isinstance(method, SteeringMethod):
        raise SettingError(f"method={method!r}: give a method such as Seka(gain=0.5)")
    method.check(bank)
    if getattr(getattr(hf_model, "active_peft_config", None), "is_prompt_learning", False):
        raise UnsupportedModelError(
            "this PEFT model puts learned tokens before the prompt, so positions are not those of the mask; adapters that "
            "change weights (LoRA and the like) can be steered"
        )
    marks = Marks(mask)
    report = SteeringReport(method=type(method).__name__, gain=method.strength, tokens_marked=len(marks))
    if bank is not None:
        identity = identify(hf_model, remembered=True)
        bank.model.check(identity)
        report.bank, report.warnings = bank.digest, bank.model.doubts(identity)
    if not len(marks):
        report.warnings.append("nothing is highlighted: the model runs unsteered")
    elif not any(method.strengths):
        report.warnings.append(f"the {method.strength_field} is 0: the model runs unsteered")
    else:
        check_strength(method, bank, float(marks.weights.max()), hf_model)
        report.warnings += strength_warnings(method, bank)
        with method.attach(hf_model, bank, marks, report, prepared):
            yield report
        return
    yield report
