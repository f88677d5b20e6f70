"""Attention's scores as the model computes them, seen without the library: before the softmax, after rotation and scale."""

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class _Products(TorchFunctionMode):
    """Products of queries and keys ``[B, heads, T, T]`` with the number by which they are multiplied, in order."""

    def __init__(self, length):
        super().__init__()
        self.length, self.found, self._raw = length, [], {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        named = kwargs or {}
        if function is functional.scaled_dot_product_attention:
            q, k = (args[i] if len(args) > i else named[name] for i, name in enumerate(("query", "key")))
            k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
            scale = named.get("scale") or q.shape[-1] ** -0.5
            self.found.append(q.double() @ k.double().mT * scale)
        elif function in (functional.softmax, torch.softmax, torch.Tensor.softmax):
            scores = args[0]
            if scores.ndim >= 3 and scores.shape[-2] == self.length:
                self.found.append(scores.double())
        return function(*args, **named)


def scores_of(model, ids, layer, **inputs):
    """The scores ``[B, Q, T, T]`` of one layer, of all attentions that are computed in the model."""
    layers = list_of_layers(model, ids.shape[1], ids, inputs)
    scores = layers[layer][..., : ids.shape[1]]
    scores = scores if scores.ndim == 4 else scores.unflatten(0, (len(ids), -1))
    cap = getattr(model.config, "attn_logit_softcapping", None)
    return ((cap * (scores / cap).clamp(-1, 1).atanh()) if cap else scores).float()


def list_of_layers(model, length, ids, inputs):
    """Layer -> scores; layers without attention have none."""
    from seka_rag.hf.find import find_key_sites

    sites, found = find_key_sites(model), {}
    hooks = []
    with torch.no_grad(), _Products(length) as seen:
        counts = []
        blocks = sites.decoder.get_submodule(sites.layout.blocks)
        for i, block in enumerate(blocks):
            hooks.append(block.register_forward_pre_hook(lambda *_, i=i: counts.append((i, len(seen.found)))))
        try:
            model(ids, **inputs)
        finally:
            for hook in hooks:
                hook.remove()
    ends = [n for _, n in counts[1:]] + [len(seen.found)]
    for (i, begin), end in zip(counts, ends, strict=True):
        square = [s for s in seen.found[begin:end] if s.ndim == 4 or len(s) % len(ids) == 0]
        square = [s for s in square if s.shape[-1] >= length and s.shape[-2] == length]
        if square:
            found[i] = square[0]
    return found
