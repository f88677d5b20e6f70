"""Where the keys of a model are: by the table of families, or by probing one that is not in it."""

from __future__ import annotations

from torch import nn

from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.layouts import LAYOUTS, REFUSED
from seka_rag.hf.probe import probe
from seka_rag.hf.sites import KeySites, setting, sites_of, text_config


def find_key_sites(model: nn.Module) -> KeySites:
    """The key sites of a transformers model: by the table of families, or for a family that is not in it, by probing.

    Raises:
        UnsupportedModelError: a family that cannot be steered, with the reason; a model whose modules are not where its
            family has them; an unknown family whose keys cannot be proven.
    """
    if not hasattr(model, "config") or not hasattr(model, "get_decoder"):
        raise UnsupportedModelError(f"{type(model).__name__} is not a transformers model")
    config = text_config(model)
    family = config.model_type
    if family in REFUSED:
        raise UnsupportedModelError(f"model family {family!r} cannot be steered: {REFUSED[family]}")
    rows = [r for r in LAYOUTS.get(family, ()) if all(setting(config, name) == value for name, value in r.when)]
    if not rows:
        return probe(model)
    return sites_of(model, rows[0])
