"""SEKA for LlamaIndex: a language model that follows the evidence its query engine retrieved."""

from seka_rag.frameworks import MissingExtraError

try:
    import llama_index.core  # noqa: F401
except ImportError as error:  # the package comes with seka-rag, its dependency with the extra
    raise MissingExtraError("llama-index-core", "llamaindex") from error

from llama_index.llms.seka.errors import SekaLLMError
from llama_index.llms.seka.events import HighlightEvent, HighlightHandler
from llama_index.llms.seka.html import HighlightedNodes
from llama_index.llms.seka.llm import SekaLLM
from llama_index.llms.seka.marks import mark_message
from llama_index.llms.seka.postprocessor import HighlightPostprocessor
from llama_index.llms.seka.reports import collect_reports

__all__ = [
    "HighlightEvent",
    "HighlightHandler",
    "HighlightPostprocessor",
    "HighlightedNodes",
    "SekaLLM",
    "SekaLLMError",
    "collect_reports",
    "mark_message",
]
