"""The edits of a method with a bank, computed once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

if TYPE_CHECKING:
    from seka_rag.hf.hooks import LayerEdit
    from seka_rag.steering.base import KeySteering

_KEPT = 64  # plans of one bank, each of up to its size
_plans: WeakKeyDictionary[Any, OrderedDict[KeySteering, Mapping[int, LayerEdit]]] = WeakKeyDictionary()
_lock = threading.Lock()


def plan(method: KeySteering, bank: Any) -> Mapping[int, LayerEdit]:
    """``method.edits(bank)``, kept as long as the bank lives (banks and methods do not change)."""
    with _lock:
        plans = _plans.setdefault(bank, OrderedDict())
        if method in plans:
            plans.move_to_end(method)
            return plans[method]
    with torch.inference_mode(False), torch.no_grad():  # a later call may want gradients through the edit
        edits = method.edits(bank)
    with _lock:
        plans[method] = edits
        while len(plans) > _KEPT:
            plans.popitem(last=False)
    return edits
