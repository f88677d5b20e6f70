"""The model card of a bank or of experts: what it is, how it was learned, how to use it, what it cannot do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seka_rag.bank.base import described

if TYPE_CHECKING:
    from seka_rag.bank.experts import ExpertBank
    from seka_rag.bank.projections import ProjectionBank
    from seka_rag.hf.identity import ModelIdentity

_LIMITS = """\
* It fits this model only. seka-rag refuses it for another architecture, size or configuration, and warns if the weights
  differ, as those of a fine-tuned model do.
* Steering makes the model look harder at what is highlighted. It does not make a highlighted text true: highlight only
  sources that you trust.
* The suggested steering is a start. Measure answers that you know before you rely on it.
"""

_USE = """\
## Use

```python
from seka_rag import Prompt, SteeredModel

model = SteeredModel.from_pretrained("{name}", bank="{repo_id}")
prompt = Prompt("Context: Ada moved to Lyon in 2021.\\nQuestion: Where does Ada live?\\nAnswer:")
print(model.generate(prompt.highlight("moved to Lyon in 2021")).text)
```
"""

_TEXT = """---
{metadata}
---

# Projection bank for {model}

This is not a language model. It is a *bank* for [seka-rag](https://pypi.org/project/seka-rag/): subspaces of the attention
keys of {model}. With it, SEKA (Spectral Editing Key Amplification, arXiv 2603.01281) makes the model attend more to
highlighted parts of a prompt.

{use}
## What it holds

{facts}

## Heads

The relevance gap (mean l2 distance of relevant and irrelevant keys) of each key-value head; **bold** heads are steered, with
the rank of their subspace.

{table}

## Limits

{limits}"""

_EXPERTS = """---
{metadata}
---

# Experts for {model}

This is not a language model. It is an *expert bank* for [seka-rag](https://pypi.org/project/seka-rag/): several banks, each
with subspaces of the attention keys of {model}. With it, AdaSEKA (arXiv 2603.01281) makes the model attend more to highlighted
parts of a prompt, by the mixture of experts that fits the prompt.

{use}
## What it holds

Suggested steering {steering}, digest `{digest}`.

{table}

{facts}

## Limits

{limits}"""


def expert_card(experts: ExpertBank, repo_id: str, base_model: str | None = None) -> str:
    """The README.md of an expert bank's repository; arguments as for ``model_card``."""
    banks = {name: experts[name] for name in experts.names}
    lines = ["| expert | gain | heads | digest |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {experts.gains[name]:g} | {int((bank.ranks > 0).sum())} of {bank.ranks.numel()} | `{bank.digest}` |"
        for name, bank in banks.items()
    ]
    return _EXPERTS.format(
        **_names(experts.model, repo_id, base_model),
        steering=described(experts.steering),
        digest=experts.digest,
        table="\n".join(lines),
        facts="\n\n".join(f"### {name}\n\n{_facts(bank)}" for name, bank in banks.items()),
    )


def model_card(bank: ProjectionBank, repo_id: str, base_model: str | None = None) -> str:
    """The README.md of a bank's repository.

    Args:
        base_model: name of the model on the Hub, if the bank does not know it.
    """
    return _TEXT.format(**_names(bank.model, repo_id, base_model), facts=_facts(bank), table=_table(bank))


def _names(identity: ModelIdentity, repo_id: str, base_model: str | None) -> dict[str, str]:
    """What a card says of the model and of itself."""
    from huggingface_hub import ModelCardData

    base = base_model or identity.name
    tags = ["seka-rag", "attention-steering", "prompt-highlighting"]
    return {
        "metadata": ModelCardData(library_name="seka-rag", tags=tags, base_model=base).to_yaml(),
        "model": base or f"a {identity.model_type} model",
        "use": _USE.format(name=base or "path/to/the/model", repo_id=repo_id),
        "limits": _LIMITS,
    }


def _facts(bank: ProjectionBank) -> str:
    learning, model = bank.learning, bank.model
    rows = {
        "model": f"{model.model_type}, {model.layers} layers, {model.heads} key-value heads of size {model.head_dim}",
        "model revision": model.revision,
        "weights": ", ".join(f"{digest} ({rounding})" for rounding, digest in model.weights.items()),
        "keys taken at": f"`{model.site}`",
        "learned from": learning.method
        + (f": {learning.triples}, {learning.tokens} tokens" if learning.triples else ""),
        "energy": learning.energy,
        "heads": f"{int((bank.ranks > 0).sum())} of {bank.ranks.numel()} ({_cell(learning.heads)})",
        "negative part": "yes" if bank.negative else "no",
        "singular values": "yes" if bank.singular_values else "no",
        "suggested steering": described(bank.steering),
        "digest": f"`{bank.digest}`",
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines])


def _table(bank: ProjectionBank) -> str:
    heads = range(bank.model.heads)
    lines = [f"| layer | {' | '.join(f'head {h}' for h in heads)} |", "|" + "---|" * (bank.model.heads + 1)]
    for layer, (gaps, ranks) in enumerate(zip(bank.gap.tolist(), bank.ranks.tolist(), strict=True)):
        cells = [f"**{g:.3f}** ({r})" if r else f"{g:.3f}" for g, r in zip(gaps, ranks, strict=True)]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text of a bank's file, kept inside its cell."""
    return " ".join(text.replace("|", "/").split())
