"""What the integrations share: following passages into a prompt, highlight settings, marks, reports, engines, warnings.

Beside ``seka_rag`` itself, integrations import this package and nothing else.
"""

from seka_rag.errors import MissingExtraError
from seka_rag.frameworks.calls import Request
from seka_rag.frameworks.citing import Citable, Cited, CitedDocument
from seka_rag.frameworks.disputed import DISPUTED, undisputed
from seka_rag.frameworks.engines import Engine, EngineSlot
from seka_rag.frameworks.highlights import Highlights, highlights_off, unique
from seka_rag.frameworks.instructions import INSTRUCTIONS, QUESTION, QUESTION_VARIABLES, own_words, said
from seka_rag.frameworks.kinds import (
    HIGHLIGHT_OPTIONS,
    HighlighterField,
    HighlightMode,
    HighlightSettings,
    chooser,
    kinds,
)
from seka_rag.frameworks.marks import KEY, Marks, digest, is_report, read_marks, read_span, write_marks
from seka_rag.frameworks.placing import Place, Squeezed, mover, place_passages, unexplained
from seka_rag.frameworks.reports import report_of, usage
from seka_rag.frameworks.settings import ModelSettings
from seka_rag.frameworks.tools import tool_choice
from seka_rag.frameworks.unmarked import (
    NOTHING_CHOSEN,
    OnUnmarked,
    UnmarkedWarning,
    as_on_unmarked,
    decide,
    forget_causes,
)
from seka_rag.highlight.base import Highlighter, check_spans
from seka_rag.highlight.registry import as_highlighter
from seka_rag.highlight.trust import choose_spans, distrusts
from seka_rag.model.scope import no_highlighting, open_highlighting
from seka_rag.model.shared import bank_name, shared_model
from seka_rag.retrieval.retrievers import as_passage
from seka_rag.steering.registry import as_steering, steering_as_dict
from seka_rag.text.provenance import Placement, locate_values
from seka_rag.text.spans import shift, trimmed
from seka_rag.text.toolcalls import InvalidToolCall, ToolCall

__all__ = [
    "Citable",
    "Cited",
    "CitedDocument",
    "DISPUTED",
    "HIGHLIGHT_OPTIONS",
    "INSTRUCTIONS",
    "KEY",
    "NOTHING_CHOSEN",
    "QUESTION",
    "QUESTION_VARIABLES",
    "Engine",
    "EngineSlot",
    "HighlightMode",
    "HighlightSettings",
    "Highlighter",
    "HighlighterField",
    "Highlights",
    "InvalidToolCall",
    "Marks",
    "MissingExtraError",
    "ModelSettings",
    "OnUnmarked",
    "Place",
    "Placement",
    "Request",
    "Squeezed",
    "ToolCall",
    "UnmarkedWarning",
    "as_highlighter",
    "as_on_unmarked",
    "as_passage",
    "as_steering",
    "bank_name",
    "check_spans",
    "choose_spans",
    "chooser",
    "decide",
    "digest",
    "distrusts",
    "forget_causes",
    "highlights_off",
    "is_report",
    "kinds",
    "locate_values",
    "mover",
    "open_highlighting",
    "own_words",
    "place_passages",
    "no_highlighting",
    "read_marks",
    "read_span",
    "report_of",
    "said",
    "shared_model",
    "shift",
    "steering_as_dict",
    "tool_choice",
    "trimmed",
    "undisputed",
    "unexplained",
    "unique",
    "usage",
    "write_marks",
]
