"""What attention was really given, seen without hooks and without the library."""

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class AttentionInputs(TorchFunctionMode):
    """The queries and keys, ``[B, heads, T, D]`` or ``[B heads, T, D]``, of every attention inside the ``with``, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        named = kwargs or {}
        if function is functional.scaled_dot_product_attention:
            q, k = (args[i] if len(args) > i else named[name] for i, name in enumerate(("query", "key")))
            self.pairs.append((q.detach(), k.detach()))
        elif function in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__) and args[0].ndim == 4:
            q, k = args[0], args[1].transpose(-1, -2)
            if q.shape[-1] == k.shape[-1] and q.shape[-2] == k.shape[-2]:  # scores, not scores times values
                self.pairs.append((q.detach(), k.detach()))
        elif function in (torch.baddbmm, torch.Tensor.baddbmm, torch.bmm):
            q, k = (args[-2:]) if len(args) > 1 else (named["batch1"], named["batch2"])
            self.pairs.append((q.detach(), k.detach().transpose(-1, -2)))
        return function(*args, **named)
