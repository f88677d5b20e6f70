"""A model whose answers are known: it says what is highlighted if it is steered, and what it remembers if not."""

from __future__ import annotations

import json
import re
from functools import cache

import torch
from tiny import tiny_model

from seka_rag import Prompt
from seka_rag.bench.item import Item
from seka_rag.bench.tasks.base import Source
from seka_rag.hf.tokens import tokenize
from seka_rag.model.generation import Generation
from seka_rag.model.steered import SteeredModel
from seka_rag.steering.base import SteeringReport

WORDS = "Lyon Rome Oslo Bonn Kyiv Linz Pisa Faro Nothing Ann Ada Ida Eve Bob Cid Dan".split()


@cache
def tokenizer_of_words():
    """A byte-level BPE in which these words are one token each, with a space before them and without."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([w for word in WORDS for w in (word, f" {word}")], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template="{{ messages[0].content }}")


class Scripted(SteeredModel):
    """Answers "It is X." where X is the last capitalised word of the first highlight, or of ``memory``.

    ``memory`` is question -> answer. It follows a highlight if the strength is at least ``threshold``; the first token is
    likelier by the strength in nats. ``calls`` are the batches that it was given, with the method.
    """

    def __init__(self, memory=None, threshold=1.0):
        self.memory, self.threshold, self.calls = memory or {}, threshold, []
        self._tokenizer = tokenizer_of_words()

    name = "scripted"
    bank = None
    hf_model = tiny_model("llama")  # which is not asked: the identity of a run

    @property
    def tokenizer(self):
        return self._tokenizer

    def tokenize(self, prompt):
        return tokenize(self._tokenizer, prompt if isinstance(prompt, Prompt) else Prompt(prompt))

    def tokenize_chat(self, messages, **template):
        return self.tokenize("<user> " + messages[0]["content"] + " <assistant> ")

    def generate(self, prompts, *, steering=None, max_new_tokens=1, stop=(), logits_processor=()):
        prompts = [p if not isinstance(p, str) else self.tokenize(p) for p in prompts]
        self.calls.append(([self._tokenizer.decode(p.ids) for p in prompts], steering))
        said = [self._says(p, steering) for p in prompts]
        for processor in logits_processor:
            scores = torch.zeros(len(prompts), len(self._tokenizer))
            for row, (word, strength) in enumerate(said):
                scores[row, self._tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0]] = strength
            processor(torch.zeros(len(prompts), 1), scores)
        return [
            Generation(f" It is {w}.", SteeringReport(), len(p), 4, "stop")
            for (w, _), p in zip(said, prompts, strict=True)
        ]

    def _says(self, prompt, steering):
        text = self._tokenizer.decode(prompt.ids)
        marked = self._tokenizer.decode([t for t, w in zip(prompt.ids, prompt.weights, strict=True) if w])
        if steering is not None and marked and steering.strength >= self.threshold:
            return re.findall(r"[A-Z]\w*", marked)[-1], steering.strength
        return next((a for q, a in self.memory.items() if q in text), "Nothing"), 2.0


def plain_record(name, passages, gold, marked, **meta):
    """Where does NAME live? One passage is highlighted as a whole."""
    text = passages[marked]
    mark = {"passage": marked, "start": 0, "end": len(text), "text": text}
    return {
        "id": name, "dataset": "d", "question": f"Where does {name} live?", "passages": passages,
        "gold_context_answer": gold, "parametric_answer": None, "highlights": [mark], "meta": meta,
    }  # fmt: skip


def of_file(tmp_path, records, model=None):
    """Records as a task gets them of ``--data``."""
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return Source(model or Scripted(), tmp_path, limit=99, data=path)


def marked_text(item: Item, spans=None) -> str:
    """What is highlighted in an item's prompt, the evidence if nothing else is given."""
    return " | ".join(item.prompt(item.gold if spans is None else spans).highlighted)
