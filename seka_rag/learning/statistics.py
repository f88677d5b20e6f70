"""Statistics of keys, or of values too, of contrastive triples: sums only, so parts learned anywhere can be added."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from seka_rag.errors import LearningError, SettingError, SpanError, UnsupportedModelError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.read import read_keys
from seka_rag.hf.sites import KeySites, setting, text_config
from seka_rag.hf.tokens import TokenizedPrompt, pad_id, tokenize
from seka_rag.hf.types import Tokenizer
from seka_rag.hf.verify import quietly
from seka_rag.learning.queries import PROMPTS, QuerySums, collect_queries
from seka_rag.learning.triples import ContrastiveTriple
from seka_rag.text.prompt import Prompt

#: The most tokens of one pass. A processor is as fast with a few hundred as with thousands, which leave its caches.
_PASS_TOKENS = {"cpu": 512, "cuda": 16_384}


@dataclass
class KeyStatistics:
    """Sums over answer tokens, for L layers, H heads of size D.

    Attributes:
        relevant, irrelevant: ``[L, H, D, D]`` float64, ``sum H^T H+`` and ``sum H^T H-``.
        mean_relevant: ``[L, H, D]`` float64, the sum of relevant keys (it orients singular vectors).
        gap: ``[L, H]`` float64, the sum of ``||h+ - h-||_2``.
        queries: of the last tokens of a few dozen prompts with the questions of triples.
        values: the same sums of values; None if they were not collected.
        tokens, triples, skipped: counts; a triple is skipped if its answer has other tokens in the three prompts.
    """

    relevant: Tensor
    irrelevant: Tensor
    mean_relevant: Tensor
    gap: Tensor
    queries: QuerySums = field(default_factory=QuerySums)
    tokens: int = 0
    triples: int = 0
    skipped: int = 0
    values: KeyStatistics | None = None

    @property
    def head_count(self) -> int:
        """How many key-value heads have keys: layers of a hybrid may have none."""
        return int((self.relevant.abs().amax((-1, -2)) > 0).sum())

    @classmethod
    def zeros(cls, layers: int, heads: int, head_dim: int) -> KeyStatistics:
        square = torch.zeros(layers, heads, head_dim, head_dim, dtype=torch.float64)
        flat = torch.zeros(layers, heads, dtype=torch.float64)
        return cls(square, square.clone(), torch.zeros(layers, heads, head_dim, dtype=torch.float64), flat)

    def __add__(self, other: KeyStatistics) -> KeyStatistics:
        """Statistics of both parts together."""
        if self.relevant.shape != other.relevant.shape:
            raise LearningError(f"statistics of different models: {self.relevant.shape} and {other.relevant.shape}")
        if (self.values is None) != (other.values is None):
            raise LearningError("statistics with values and without: collect all parts alike")
        sums = self.__dataclass_fields__.keys() - {"values"}
        values = None if self.values is None or other.values is None else self.values + other.values
        return KeyStatistics(values=values, **{name: getattr(self, name) + getattr(other, name) for name in sums})

    def add(self, layer: int, neutral: Tensor, relevant: Tensor, irrelevant: Tensor) -> None:
        """Add keys ``[n, H, D]`` of one layer."""
        h, hp, hn = neutral.double(), relevant.double(), irrelevant.double()
        self.relevant[layer] += torch.einsum("nhd,nhe->hde", h, hp).cpu()
        self.irrelevant[layer] += torch.einsum("nhd,nhe->hde", h, hn).cpu()
        self.mean_relevant[layer] += hp.sum(0).cpu()
        self.gap[layer] += (hp - hn).norm(dim=-1).sum(0).cpu()


def triple_prompts(triple: ContrastiveTriple) -> tuple[Prompt, Prompt, Prompt]:
    """Neutral, relevant and irrelevant prompt, with the answer marked inside the context of each (paper, sec. 3.1)."""
    context = Prompt(triple.context, (triple.answer,))
    return (
        "Context: " + context,
        f"Question: {triple.question}\nContext: " + context,
        f"Question: {triple.irrelevant_question}\nContext: " + context,
    )


def collect_statistics(
    hf_model: nn.Module,
    tokenizer: Tokenizer,
    triples: Sequence[ContrastiveTriple],
    *,
    batch_size: int = 16,
    values: bool = False,
    progress: Callable[[int], None] | None = None,
) -> KeyStatistics:
    """Run every triple through the model's backbone and sum up the keys of its answers.

    Attention is causal, so a prompt is run up to the end of its answer only, and prompts of which one begins the other
    share a row. Rows of similar length go through the model together, up to the last layer's keys.

    Args:
        batch_size: triples that are tokenized, compared and held at a time.
        values: also sum up the values of the answers.
        progress: called with the number of triples done since the last call.

    Raises:
        LearningError: no usable triple, keys that are not finite, or a model whose attention is not causal.
        SettingError: ``batch_size`` is below 1.
        UnsupportedModelError: values, and where the model has them is not known.
    """
    if batch_size < 1:
        raise SettingError(f"batch_size={batch_size}: give at least 1")
    sites = find_key_sites(hf_model)
    _check_causal(hf_model)
    if values and not sites.value_modules:
        raise UnsupportedModelError(f"where a {sites.model_type} model has the values that it caches is not known")
    statistics = KeyStatistics.zeros(sites.layers, sites.heads, sites.head_dim)
    if values:
        statistics.values = KeyStatistics.zeros(sites.layers, sites.heads, sites.head_dim)
    device = next(hf_model.parameters()).device
    with quietly(hf_model):
        statistics.queries = collect_queries(sites, tokenizer, triples[:PROMPTS])
        for chunk in _chunks(triples, batch_size):
            usable = [three for three in (_tokenize(tokenizer, t) for t in chunk) if three]
            if usable:
                # all neutral prompts, then all relevant, then all irrelevant ones
                prompts = [prompt for part in zip(*usable, strict=True) for prompt in part]
                keys, found = _answer_keys(sites, prompts, pad_id(tokenizer), device, values)
                for layer, k in keys.items():
                    statistics.add(layer, *k.chunk(3))
                for layer, v in found.items():
                    assert statistics.values is not None
                    statistics.values.add(layer, *v.chunk(3))
                statistics.tokens += sum(len(_answer(neutral)) for neutral, *_ in usable)
            statistics.triples += len(usable)
            statistics.skipped += len(chunk) - len(usable)
            if progress:
                progress(len(chunk))
    if not statistics.tokens:
        raise LearningError(f"none of the {len(triples)} triples could be used ({statistics.skipped} skipped)")
    if not statistics.relevant.isfinite().all():
        raise LearningError("the model's keys are not finite; load it in float32 or bfloat16")
    return statistics


def _check_causal(hf_model: nn.Module) -> None:
    config = text_config(hf_model)
    if setting(config, "use_bidirectional_attention") in (True, "all") or setting(config, "is_causal") is False:
        raise LearningError(
            "this model's attention is not causal (an embedding model?): SEKA is for models that generate"
        )


def _chunks(items: Sequence[ContrastiveTriple], size: int) -> Iterator[Sequence[ContrastiveTriple]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]


def _tokenize(tokenizer: Tokenizer, triple: ContrastiveTriple) -> list[TokenizedPrompt] | None:
    """The three prompts as tokens, or None if the answer has none (weight 0), or others in one of them."""
    try:
        three = [tokenize(tokenizer, prompt) for prompt in triple_prompts(triple)]
    except SpanError:
        return None
    answers = [[t.ids[i] for i in _answer(t)] for t in three]
    return three if answers[0] and answers[0] == answers[1] == answers[2] else None


def _answer(prompt: TokenizedPrompt) -> list[int]:
    """Where the answer's tokens are."""
    return [i for i, weight in enumerate(prompt.weights) if weight > 0]


def _answer_keys(
    sites: KeySites, prompts: Sequence[TokenizedPrompt], padding: int, device: torch.device, values: bool
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Layer -> keys of the answers' tokens ``[n, H, D]``, prompt after prompt; and their values, if they are wanted."""
    answers = [_answer(p) for p in prompts]
    rows, of_prompt = distinct_rows([tuple(p.ids[: a[-1] + 1]) for p, a in zip(prompts, answers, strict=True)])
    row = torch.tensor([r for r, a in zip(of_prompt, answers, strict=True) for _ in a])
    column = torch.tensor([i for a in answers for i in a])
    found: tuple[dict[int, Tensor], dict[int, Tensor]] = {}, {}
    for group in row_groups([len(ids) for ids in rows], _PASS_TOKENS.get(device.type, _PASS_TOKENS["cuda"])):
        place = torch.full((len(rows),), -1)
        place[group] = torch.arange(len(group))
        here = (place[row] >= 0).nonzero()[:, 0]
        ids = pad_sequence([torch.tensor(rows[i]) for i in group], batch_first=True, padding_value=padding)
        read = read_keys(sites, ids.to(device), place[row[here]], column[here], values=values)
        here = here.to(device)
        for all_of, some in zip(found, read, strict=True):
            for layer, k in some.items():
                if layer not in all_of:
                    all_of[layer] = k.new_empty(len(row), *k.shape[1:])
                all_of[layer][here.to(k.device)] = k
    return found


def distinct_rows(prompts: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The token sequences that no other one begins with, and for each prompt the one that begins with it."""
    rows: list[tuple[int, ...]] = []
    home: dict[tuple[int, ...], int] = {}
    for ids in sorted(set(prompts), reverse=True):  # right after a sequence come those that it begins
        if not rows or rows[-1][: len(ids)] != ids:
            rows.append(ids)
        home[ids] = len(rows) - 1
    return rows, [home[ids] for ids in prompts]


def row_groups(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Rows that go through the model together: of similar length, with at most so many tokens, padding included."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if group and lengths[group[0]] * (len(group) + 1) > tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
