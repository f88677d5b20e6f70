"""What the integrations share: following passages into a prompt, highlight settings, marks, reports, engines, warnings.

Beside ``seka_rag`` itself, integrations import this package and nothing else.
"""

from seka_rag.errors import MissingExtraError
from seka_rag.frameworks.calls import Request
from seka_rag.frameworks.citing import Citable, Cited, CitedDocument
from seka_rag.frameworks.disputed import DISPUTED, undisputed
from seka_rag.frameworks.engines import Engine
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
    decide,
)
from seka_rag.highlight.base import Highlighter
from seka_rag.highlight.trust import choose_spans, distrusts
from seka_rag.model.scope import no_highlighting
from seka_rag.model.shared import bank_name
from seka_rag.retrieval.retrievers import as_passage
from seka_rag.text.provenance import Placement, locate_values
from seka_rag.text.spans import shift, trimmed
from seka_rag.text.toolcalls import InvalidToolCall, ToolCall

__all__ = [
    "Citable",
    "Cited",
    "CitedDocument",
    "DISPUTED",
    "INSTRUCTIONS",
    "HIGHLIGHT_OPTIONS",
    "KEY",
    "NOTHING_CHOSEN",
    "QUESTION",
    "QUESTION_VARIABLES",
    "Engine",
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
    "as_passage",
    "bank_name",
    "choose_spans",
    "chooser",
    "decide",
    "digest",
    "distrusts",
    "highlights_off",
    "is_report",
    "kinds",
    "locate_values",
    "mover",
    "own_words",
    "place_passages",
    "no_highlighting",
    "read_marks",
    "read_span",
    "report_of",
    "said",
    "shift",
    "tool_choice",
    "trimmed",
    "undisputed",
    "unexplained",
    "unique",
    "usage",
    "write_marks",
]
