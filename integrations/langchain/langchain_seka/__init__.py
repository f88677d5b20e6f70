"""SEKA for LangChain: models that follow the evidence their chain retrieved."""

from typing import TYPE_CHECKING, Any

from seka_rag.frameworks import MissingExtraError

try:
    import langchain_core  # noqa: F401
except ImportError as error:  # the package comes with seka-rag, its dependency with the extra
    raise MissingExtraError("langchain-core", "langchain") from error

from langchain_seka.chat_model import ChatSeka
from langchain_seka.handler import SekaCallbackHandler
from langchain_seka.llm import SekaLLM
from langchain_seka.marks import mark_message
from langchain_seka.prompts import HighlightPrompt

if TYPE_CHECKING:
    from langchain_seka.middleware import SekaMiddleware

__all__ = ["ChatSeka", "HighlightPrompt", "SekaCallbackHandler", "SekaLLM", "SekaMiddleware", "mark_message"]


def __getattr__(name: str) -> Any:
    if name == "SekaMiddleware":  # it needs langchain, the others langchain-core alone
        from langchain_seka.middleware import SekaMiddleware

        return SekaMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
