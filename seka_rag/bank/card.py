"""The model card of a bank or of experts: what it is, how it was learned, how to use it, what it cannot do."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from seka_rag.bank.base import Bank, described
from seka_rag.bank.header import Learning
from seka_rag.hf.identity import ModelIdentity


class Described(Bank, Protocol):
    """What a card says of one bank; see ``ProjectionBank``."""

    learning: Learning
    gap: Tensor
    negative: dict[int, Tensor]
    singular_values: dict[int, Tensor]

    @property
    def ranks(self) -> Tensor: ...
    @property
    def head_count(self) -> int: ...


class DescribedExperts(Bank, Protocol):
    """What a card says of several; see ``ExpertBank``."""

    gains: dict[str, float]

    def __getitem__(self, name: str) -> Described: ...


_CARD = """---
{metadata}
---

# {title} for {model}

This is not a language model. It is {what} for [seka-rag](https://pypi.org/project/seka-rag/): {parts} of the attention keys of
{model}. With it, {method} makes the model attend more to highlighted parts of a prompt{how}.

## Use

```python
from seka_rag import Prompt, SteeredModel

model = SteeredModel.from_pretrained("{name}", bank="{repo_id}")
prompt = Prompt("Context: Ada moved to Lyon in 2021. Question: Where does Ada live? Answer:")
print(model.generate(prompt.highlight("moved to Lyon in 2021")).text)
```

## What it holds

{facts}

## Limits

* It fits this model only. seka-rag refuses it for another architecture, size or configuration, and warns if the weights
  differ, as those of a fine-tuned model do.
* Steering makes the model look harder at what is highlighted. It does not make a highlighted text true: highlight only
  sources that you trust.
* The suggested steering is a start. Measure answers that you know before you rely on it.
"""


def model_card(bank: Described, repo_id: str, base_model: str | None = None) -> str:
    """The README.md of a bank's repository.

    Args:
        base_model: name of the model on the Hub, if the bank does not know it.
    """
    return _card(
        bank.model,
        repo_id,
        base_model,
        title="Projection bank",
        what="a *bank*",
        parts="subspaces",
        method="SEKA (Spectral Editing Key Amplification, arXiv 2603.01281)",
        how="",
        facts=f"{_facts(bank)}\n\n{_heads(bank)}",
    )


def expert_card(experts: DescribedExperts, repo_id: str, base_model: str | None = None) -> str:
    """The README.md of an expert bank's repository; arguments as for ``model_card``."""
    banks = {name: experts[name] for name in experts.names}
    lines = ["| expert | gain | heads | digest |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {experts.gains[name]:g} | {int((bank.ranks > 0).sum())} of {bank.head_count} | `{bank.digest}` |"
        for name, bank in banks.items()
    ]
    parts = [
        f"Suggested steering {described(experts.steering)}, digest `{experts.digest}`.",
        "\n".join(lines),
        *(f"### {name}\n\n{_facts(bank)}" for name, bank in banks.items()),
    ]
    return _card(
        experts.model,
        repo_id,
        base_model,
        title="Experts",
        what="an *expert bank*",
        parts="several banks, each with subspaces",
        method="AdaSEKA (arXiv 2603.01281)",
        how=", by the mixture of experts that fits the prompt",
        facts="\n\n".join(parts),
    )


def _card(identity: ModelIdentity, repo_id: str, base_model: str | None, **parts: str) -> str:
    from huggingface_hub import ModelCardData

    base = base_model or identity.name
    tags = ["seka-rag", "attention-steering", "prompt-highlighting"]
    return _CARD.format(
        metadata=ModelCardData(library_name="seka-rag", tags=tags, base_model=base).to_yaml(),
        model=base or f"a {identity.model_type} model",
        name=base or "path/to/the/model",
        repo_id=repo_id,
        **parts,
    )


def _facts(bank: Described) -> str:
    learning, model = bank.learning, bank.model
    rows = {
        "model": f"{model.model_type}, {model.layers} layers, {model.heads} key-value heads of size {model.head_dim}",
        "model revision": model.revision,
        "weights": ", ".join(f"{digest} ({rounding})" for rounding, digest in model.weights.items()),
        "keys taken at": f"`{model.site}`",
        "learned from": learning.method
        + (f": {learning.triples}, {learning.tokens} tokens" if learning.triples else ""),
        "energy": learning.energy,
        "heads": f"{int((bank.ranks > 0).sum())} of {bank.head_count} ({_cell(learning.heads)})",
        "negative part": "yes" if bank.negative else "no",
        "singular values": "yes" if bank.singular_values else "no",
        "suggested steering": described(bank.steering),
        "digest": f"`{bank.digest}`",
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines])


def _heads(bank: Described) -> str:
    intro = """## Heads

The relevance gap (mean l2 distance of relevant and irrelevant keys) of each key-value head; **bold** heads are steered, with
the rank of their subspace."""
    heads = range(bank.model.heads)
    lines = [f"| layer | {' | '.join(f'head {h}' for h in heads)} |", "|" + "---|" * (bank.model.heads + 1)]
    for layer, (gaps, ranks) in enumerate(zip(bank.gap.tolist(), bank.ranks.tolist(), strict=True)):
        cells = [f"**{g:.3f}** ({r})" if r else f"{g:.3f}" for g, r in zip(gaps, ranks, strict=True)]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join([intro, "", *lines])


def _cell(text: str) -> str:
    """Text of a bank's file, kept inside its cell."""
    return " ".join(text.replace("|", "/").split())
