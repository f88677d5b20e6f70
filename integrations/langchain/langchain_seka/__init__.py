"""SEKA for LangChain: models that follow the evidence their chain retrieved."""

try:
    import langchain_core  # noqa: F401
except ImportError as error:  # the package comes with seka-rag, its dependency with the extra
    raise ImportError("langchain-core is not installed. Install it with: pip install 'seka-rag[langchain]'") from error

from langchain_seka.chat_model import ChatSeka
from langchain_seka.handler import SekaCallbackHandler
from langchain_seka.llm import SekaLLM
from langchain_seka.marks import mark_message
from langchain_seka.prompts import HighlightPrompt

__all__ = ["ChatSeka", "HighlightPrompt", "SekaCallbackHandler", "SekaLLM", "mark_message"]
