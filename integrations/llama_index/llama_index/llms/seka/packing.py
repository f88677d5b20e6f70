"""How much text LlamaIndex may pack into a prompt, counted in the model's own tokens."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import llama_index.core
from llama_index.core.utils import set_global_tokenizer

from seka_rag import RemoteModel, SekaError, SteeredModel
from seka_rag.frameworks import Engine

_added: WeakKeyDictionary[object, int] = WeakKeyDictionary()


def room(engine: Engine) -> int | None:
    """Tokens of the context that are left beside what the chat template writes around a system's and a user's message.

    LlamaIndex packs contexts to the last token, and knows of the texts alone.
    """
    length = engine.context_length
    if length is None or not engine.can_chat or not isinstance(engine, SteeredModel | RemoteModel):
        return length
    if engine not in _added:
        messages = [{"role": role, "content": "x"} for role in ("system", "user")]
        try:
            _added[engine] = len(engine.tokenize_chat(messages))
        except SekaError:  # a template that takes other messages only
            _added[engine] = 0
    return max(1, length - _added[engine])


def count_with(engine: Engine) -> None:
    """Let LlamaIndex count in this model's tokens, unless the application or another model has said how.

    Its own default counts in the tokens of GPT-3.5, which another model may need more of.
    """
    if isinstance(engine, SteeredModel) and llama_index.core.global_tokenizer is None:
        set_global_tokenizer(getattr(engine.tokenizer, "tokenize"))  # noqa: B009 - of every fast tokenizer
