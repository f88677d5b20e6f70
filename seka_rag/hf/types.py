"""What is used of transformers: of models, their outputs and caches, and of tokenizers.

Types are checked without transformers, which would take minutes, so these protocols say what must be there. Attributes that
they do not name depend on the family of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast, overload

from torch import Tensor, nn

#: Arguments of a forward pass, by name.
Arguments: TypeAlias = dict[str, Any]


class Config(Protocol):
    """Configuration of a model."""

    model_type: str
    vocab_size: int
    num_hidden_layers: int
    num_attention_heads: int

    def get_text_config(self) -> Config: ...
    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: object) -> None: ...
    def __delattr__(self, name: str) -> None: ...


class CacheLayer(Protocol):
    """Keys and values of one layer; those of other kinds than attention hold something else."""

    keys: Tensor
    values: Tensor


class Cache(Protocol):
    """Keys and values of the tokens before."""

    layers: Sequence[CacheLayer]

    def get_seq_length(self) -> int | Tensor: ...
    def reorder_cache(self, beam_idx: Tensor) -> None: ...


class Output(Protocol):
    """What a forward pass returns."""

    past_key_values: Cache
    attentions: Sequence[Tensor] | None


class Transformer(Protocol):
    """A causal language model."""

    config: Config
    generation_config: Any

    def get_decoder(self) -> nn.Module: ...
    def get_input_embeddings(self) -> nn.Embedding: ...
    def generate(self, **options: object) -> Any: ...
    def save_pretrained(self, save_directory: Any) -> None: ...
    def set_attn_implementation(self, attn_implementation: str) -> None: ...


def transformer(model: nn.Module) -> Transformer:
    """The same model, as the type checker is to see it: torch gives every attribute of a module one vague type."""
    return cast(Transformer, model)


class AddedToken(Protocol):
    """A token that was added to a vocabulary."""

    content: str
    special: bool


class Tokenizer(Protocol):
    """A fast tokenizer."""

    @property
    def is_fast(self) -> bool: ...
    @property
    def chat_template(self) -> Any: ...
    @property
    def backend_tokenizer(self) -> Any: ...
    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]: ...
    @property
    def added_tokens_encoder(self) -> Mapping[str, int]: ...
    @property
    def all_special_ids(self) -> Sequence[int]: ...
    @property
    def special_tokens_map(self) -> Mapping[str, object]: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def pad_token_id(self) -> int | None: ...
    @property
    def unk_token_id(self) -> int | None: ...
    def __len__(self) -> int: ...
    def __call__(self, text: Any, **options: object) -> Any: ...
    @overload
    def convert_ids_to_tokens(self, ids: int) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]: ...
    def convert_tokens_to_ids(self, tokens: Any) -> Any: ...
    def decode(self, token_ids: Any, **options: object) -> str: ...
    def apply_chat_template(self, conversation: Any, **options: object) -> str: ...
    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str: ...
    def save_pretrained(self, save_directory: Any) -> Any: ...
