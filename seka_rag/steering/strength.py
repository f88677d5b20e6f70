"""Strengths that destroy answers: refused where numbers would overflow, warned of beyond what calibration measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from torch import nn

from seka_rag.bank import Bank
from seka_rag.errors import SettingError

#: Where a bank suggests a method that its calibration did not measure: how many times the strength that it suggests is still
#: no reason for a warning. A rule of thumb.
_USUAL = 4.0


class Strong(Protocol):
    """A method with a strength; see ``SteeringMethod``."""

    strength_field: ClassVar[str]

    @property
    def strength(self) -> float: ...
    @property
    def strengths(self) -> Sequence[float]: ...


def check_strength(method: Strong, bank: Bank | None, weight: float, hf_model: nn.Module) -> None:
    """Refuse a strength at which attention scores, products of two vectors, would overflow in the model's dtype.

    Args:
        weight: the largest of the highlights.

    Raises:
        SettingError: says what the bank suggests.
    """
    dtype = dtype_of(hf_model)
    field, limit = method.strength_field, math.sqrt(torch.finfo(dtype).max)
    if not max(map(abs, method.strengths)) * weight <= limit:
        usual = _suggested(method, bank)
        raise SettingError(
            f"{field}={method.strength:g}{'' if weight == 1 else f' at a highlight weight of {weight:g}'} would overflow in "
            f"{str(dtype).removeprefix('torch.')}, which bears factors up to {limit:.2g}; "
            + (f"give a smaller {field}" if usual is None else f"the bank suggests {field}={usual:g}")
        )


def strength_warnings(method: Strong, bank: Bank | None) -> list[str]:
    """What to expect of a strength, for the report. It does not depend on the prompt, nor on others in the batch."""
    field, strongest = method.strength_field, max(map(abs, method.strengths))
    calibration = getattr(bank, "calibration", None)
    if calibration and (measured := calibration.disturbances(type(method).__name__, field)):
        most = max((strength for strength, disturbance in measured if disturbance <= calibration.budget), default=0.0)
        if strongest <= most:
            return []
        reason = f"beyond {most:g}, the strongest that calibration measured within its budget of disturbance"
        if not most:
            least, moved = measured[0]
            reason = (
                f"beyond what calibration found safe: the weakest that it measured, {least:g}, disturbed by {moved:.2g} nats, "
                f"and its budget is {calibration.budget:g}"
            )
    else:
        usual = _suggested(method, bank)
        if not usual or strongest <= _USUAL * abs(usual):
            return []
        reason = f"{strongest / abs(usual):.3g} times the {usual:g} that the bank suggests"
    return [f"{field}={method.strength:g} is {reason}: answers may fall apart into repetition or nothing"]


def dtype_of(hf_model: nn.Module) -> torch.dtype:
    """The dtype in which a model computes; the weights of a quantised one are in another."""
    dtype = getattr(hf_model, "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else torch.float32


def _suggested(method: Strong, bank: Bank | None) -> float | None:
    """The strength that a bank suggests for this method; that of another would say nothing."""
    if bank is None or bank.steering["method"] != type(method).__name__:
        return None
    value = bank.steering.get(method.strength_field)
    return float(value) if isinstance(value, int | float) else None
