"""The tables of docs/reference/families.md, from the layouts and from what the check shows on tiny models.

``python tests/family_table.py`` writes them.
"""

from pathlib import Path

from tiny import FAMILIES, MULTIMODAL, tiny_model

from seka_rag.hf.find import find_key_sites
from seka_rag.hf.layouts import REFUSED
from seka_rag.hf.verify import verify_key_sites

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "families.md"
HEAD = "| model type | setting | key site | axes | query site | steered layers | rotary | note |\n" + "|---" * 8 + "|"
REFUSED_HEAD = "| model types | why |\n|---|---|"


def family_row(family: str, model) -> str:
    """One line of the table: where the family's keys are, and what the check of a tiny model showed."""
    name, _, variant = family.partition(":")
    sites = find_key_sites(model)
    proofs = verify_key_sites(model, sites)
    layout = sites.layout
    steered = (
        f"`{layout.only}`"
        if layout.only
        else f"those without `{layout.without}`"
        if layout.without
        else "those with attention"
        if layout.hybrid and len(sites.modules) < sites.layers
        else "all"
    )
    rotary = {proof.rotary for proof in proofs.values()}
    scale = max(proof.scale for proof in proofs.values())
    note = [layout.note] if layout.note else []
    if abs(scale - 1) > 1e-3:
        note.append("the model multiplies its keys by a constant, and the edit with them")
    if layout.unless:
        note.append(f"refused where `{layout.unless}` is set")
    cells = [
        f"`{name}`",
        f"`{variant}`" if variant else "",
        f"`{layout.key.path}`",
        f"`{layout.key.axes}`",
        f"`{layout.query.path}`" if layout.query else "none",
        steered,
        "yes" if rotary == {True} else "no" if rotary == {False} else "in some layers",
        "; ".join(note),
    ]
    return f"| {' | '.join(cells)} |"


def refused_rows() -> list[str]:
    reasons = dict.fromkeys(REFUSED.values())
    return [
        f"| {', '.join(f'`{n}`' for n, r in sorted(REFUSED.items()) if r == reason)} | {reason} |" for reason in reasons
    ]


def multimodal_list() -> str:
    return ", ".join(f"`{name}` (`{text}`)" for name, (text, _) in sorted(MULTIMODAL.items()))


def write() -> None:
    parts = {
        "families": "\n".join([HEAD, *(family_row(f, tiny_model(f)) for f in sorted(FAMILIES))]),
        "refused": "\n".join([REFUSED_HEAD, *refused_rows()]),
        "multimodal": multimodal_list(),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, part in parts.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        after = rest[rest.index(f"<!-- /{name} -->") :]
        text = f"{before}<!-- {name} -->\n\n{part}\n\n{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
