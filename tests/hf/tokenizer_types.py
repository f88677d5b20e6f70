"""Small real tokenizers of the types that models use, trained in a moment."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CONTROL = ["<|im_start|>", "<|im_end|>"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]
CORPUS = [
    "The quick brown fox jumps over the lazy dog. Ada moved to Lyon in 2021.",
    "Context: naïve café, élève 😀 fin\r\nQuestion: wo wohnt Łukasz?\n\nAnswer:",
] * 4


def _wrapped(backend, **special):
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=CONTROL[1], additional_special_tokens=CONTROL[:1], **special
    )


@cache
def byte_level():
    """GPT-2 and Qwen: bytes as letters, spaces belong to the word behind them, which offsets leave out."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=CONTROL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(CORPUS, trainer)
    return _wrapped(backend)


@cache
def split_bytes():
    """Llama 3: a regular expression splits, then bytes."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=CONTROL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(CORPUS, trainer)
    return _wrapped(backend)


@cache
def llama():
    """Llama 2 and Mistral: sentencepiece BPE with a prefixed space and byte fallback."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=190, special_tokens=["<unk>", "<s>", *CONTROL]))
    model = json.loads(backend.to_str())["model"]
    vocabulary = {**model["vocab"], **{byte: len(model["vocab"]) + i for i, byte in enumerate(BYTES)}}
    merges = [tuple(pair) for pair in model["merges"]]
    backend.model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _wrapped(backend, bos_token="<s>", unk_token="<unk>")


@cache
def unigram():
    """T5 and XLM-R: sentencepiece unigram, with byte fallback."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=["<unk>", *CONTROL], unk_token="<unk>")
    backend.train_from_iterator(CORPUS, trainer)
    pieces = json.loads(backend.to_str())["model"]["vocab"]
    vocabulary = [tuple(p) for p in pieces] + [(b, -20.0) for b in BYTES]
    backend.model = models.Unigram(vocabulary, 0, byte_fallback=True)
    return _wrapped(backend, unk_token="<unk>")


@cache
def wordpiece():
    """BERT: lower case, accents dropped, unknown words."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]", *CONTROL]
    backend.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return _wrapped(backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


TYPES = {
    "byte-level BPE": byte_level,
    "split and byte-level BPE": split_bytes,
    "sentencepiece BPE": llama,
    "unigram": unigram,
    "wordpiece": wordpiece,
}
