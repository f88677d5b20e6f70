"""The demo's tokenizer: one token a word, letters for words it has never seen, exact offsets, a chat template."""

from __future__ import annotations

import string
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BOS, START, END, PAD, UNKNOWN = "<|bos|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<|unk|>"
WORD = Regex(r"\n|-{3,}|\w+|[^\w\s]")

# Calls are written as Hermes and Qwen do. The demo's model was never taught to choose one: a call must be forced.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% if tools %}<|im_start|>system\nTools:\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    'Call a tool as <tool_call>{"name": ..., "arguments": {...}}</tool_call><|im_end|>\n{% endif %}'
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}{% for call in message.tool_calls or [] %}\n<tool_call>\n{{ call.function | tojson }}"
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is every word of ``texts`` plus single characters as a fallback."""
    splitter = pre_tokenizers.Split(WORD, behavior="removed", invert=True)
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    letters = string.ascii_letters + string.digits
    pieces = sorted(words | set(letters + string.punctuation)) + [f"##{c}" for c in letters + "-_"]
    special = [PAD, BOS, END, START, UNKNOWN]
    vocabulary = {token: i for i, token in enumerate(special + [p for p in pieces if p not in special])}

    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=64))
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.Sequence(
        [decoders.WordPiece(prefix="##", cleanup=True), decoders.Fuse(), decoders.Replace(Regex(" ?\n ?"), "\n")]
    )
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
