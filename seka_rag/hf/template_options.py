"""Options of a chat template, such as ``enable_thinking``, where somebody else may give them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

from seka_rag.errors import SettingError
from seka_rag.hf.tokens import spelled_control
from seka_rag.hf.types import Tokenizer

#: Variables of templates that a conversation fills in.
_FILLED_IN = ("messages", "tools", "documents", "add_generation_prompt", "chat_template")


def check_template_options(tokenizer: Tokenizer, options: Mapping[str, object]) -> None:
    """Options of a template that somebody else gave: names that the template reads, and values that cannot spell control.

    Raises:
        SettingError: one of them is another.
    """
    reserved = {
        *inspect.signature(tokenizer.apply_chat_template).parameters,
        *tokenizer.special_tokens_map,
        *_FILLED_IN,
    }
    template = tokenizer.get_chat_template(None, [{}]) if tokenizer.chat_template else ""
    for name, value in options.items():
        if name in reserved or not re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", template):
            raise SettingError(f"the model's chat template has no option {name!r}")
        if isinstance(value, str) and (not re.fullmatch(r"[\w .:/-]*", value) or spelled_control(tokenizer, [value])):
            raise SettingError(f"the option {name!r} of the chat template takes letters, digits and spaces")
