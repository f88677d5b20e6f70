"""What people look at: answers and their prompts, attention, curves, banks. In notebooks, as files, on pages.

``show`` and ``strengths`` show answers; ``read_attention`` reads where a model looks, and ``passage_attention``,
``head_attention`` and ``token_attention`` show it; ``chart`` and ``curves`` draw figures; ``draw_bank``,
``draw_calibration`` and ``draw_routing`` write pictures of banks. Each is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seka_rag.model.attention import read_attention
    from seka_rag.views.answers import show, strengths
    from seka_rag.views.attention import head_attention, passage_attention, token_attention
    from seka_rag.views.banks import draw_bank, draw_calibration, draw_routing
    from seka_rag.views.charts import Point, chart, curves
    from seka_rag.views.page import View

__all__ = [
    "Point",
    "View",
    "chart",
    "curves",
    "draw_bank",
    "draw_calibration",
    "draw_routing",
    "head_attention",
    "passage_attention",
    "read_attention",
    "show",
    "strengths",
    "token_attention",
]

_MODULES = {
    "seka_rag.model.attention": ("read_attention",),
    "seka_rag.views.answers": ("show", "strengths"),
    "seka_rag.views.attention": ("head_attention", "passage_attention", "token_attention"),
    "seka_rag.views.banks": ("draw_bank", "draw_calibration", "draw_routing"),
    "seka_rag.views.charts": ("Point", "chart", "curves"),
    "seka_rag.views.page": ("View",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
