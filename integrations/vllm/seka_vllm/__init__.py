"""Steered keys in an unmodified vLLM: a plugin that vLLM finds by its entry point, and a model for batch work in process.

Importing this package loads neither vLLM nor torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seka_vllm.model import VllmModel

#: Releases whose internals the plugin was tested with.
VERSIONS = ("0.32",)

_registered = False


def register() -> None:
    """What vLLM calls in each of its processes. Without ``seka`` in its additional configuration, it changes nothing.

    Raises:
        RuntimeError: another release of vLLM, of which nothing is known.
    """
    global _registered
    if _registered:
        return
    import vllm

    if not vllm.__version__.startswith(tuple(f"{version}." for version in VERSIONS)):
        raise RuntimeError(
            f"seka_vllm was tested with vLLM {', '.join(VERSIONS)} and knows nothing of {vllm.__version__}: install one of "
            "these, or take the plugin out (VLLM_PLUGINS='')"
        )
    from seka_vllm import core, frontend, runner

    for part in (core, frontend, runner):
        part.patch()
    _registered = True


def __getattr__(name: str) -> Any:
    if name == "VllmModel":
        from seka_vllm.model import VllmModel

        return VllmModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["VERSIONS", "VllmModel", "register"]
