"""The edits of a method with a bank on a model, computed once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn

from seka_rag.hf.sites import KeySites
from seka_rag.ops.edits import Edit


class Planner(Protocol):
    """A method that does not change, and equals another with the same settings; see ``KeyEditing``."""

    def edits(self, bank: Any, sites: KeySites) -> Mapping[int, Edit]: ...
    def __hash__(self) -> int: ...


Plans = OrderedDict[Planner, Mapping[int, Edit]]

_KEPT = 64  # plans of one bank, each of up to its size
_plans: WeakKeyDictionary[nn.Module, WeakKeyDictionary[Any, Plans]] = WeakKeyDictionary()
_lock = threading.Lock()


def plan(method: Planner, bank: Any, sites: KeySites) -> Mapping[int, Edit]:
    """``method.edits(bank, sites)``, kept as long as the bank and the model live (banks and methods do not change)."""
    with _lock:
        plans = _plans.setdefault(sites.decoder, WeakKeyDictionary()).setdefault(bank, OrderedDict())
        if method in plans:
            plans.move_to_end(method)
            return plans[method]
    with torch.inference_mode(False), torch.no_grad():  # a later call may want gradients through the edit
        edits = method.edits(bank, sites)
    with _lock:
        plans[method] = edits
        while len(plans) > _KEPT:
            plans.popitem(last=False)
    return edits
