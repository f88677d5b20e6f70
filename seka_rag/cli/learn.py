"""The command ``learn``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from seka_rag.cli.experts import expert_triples
from seka_rag.cli.terminal import console, errors, progress, quiet, reporting

Energy = Annotated[float, typer.Option(help="Share of the singular values that a subspace holds.")]
MinGap = Annotated[float | None, typer.Option(help="Steer heads whose relevance gap is at least this.")]
Best = Annotated[float | None, typer.Option(help="Steer this share of all heads, those of the largest gap.")]
Quantile = Annotated[float | None, typer.Option(help="Steer heads whose gap is at least this quantile of all gaps.")]
Gain = Annotated[float, typer.Option(help="Suggested gain, stored in the bank.")]
Negative = Annotated[bool, typer.Option("--negative", help="Also learn the negative part.")]


@reporting
def learn(
    model: Annotated[str, typer.Option(help="Model name on the Hub, or folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write the bank to.")] = None,
    triples: Annotated[Path | None, typer.Option(help="Contrastive triples, one JSON object a line.")] = None,
    docs: Annotated[Path | None, typer.Option(help="Learn from your own documents instead of the templates.")] = None,
    experts: Annotated[
        str | None, typer.Option(help="Learn experts for AdaSEKA: all, or names of tasks with commas.")
    ] = None,
    expert: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="An expert of your own triples; may be repeated.")
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="How many triples to make.")] = 300,
    energy: Energy = 0.9,
    min_gap: MinGap = None,
    best: Best = None,
    quantile: Quantile = None,
    gain: Gain = 0.5,
    negative: Negative = False,
    seed: Annotated[int, typer.Option(help="Of the templates or questions.")] = 0,
    encoding: Annotated[str, typer.Option(help="Of the documents.")] = "utf-8",
    shard: Annotated[
        str | None, typer.Option(help="Only one share of the triples, as 1/4 for the first of four.")
    ] = None,
    statistics_out: Annotated[
        Path | None, typer.Option(help="File for the statistics of these triples, for seka-rag merge.")
    ] = None,
) -> None:
    """Learn a bank for a model: from templates, from your own documents, or from given triples; or several experts."""
    from seka_rag.bank.experts import expert_files
    from seka_rag.bank.files import check_target
    from seka_rag.bank.projections import FILES
    from seka_rag.errors import LearningError
    from seka_rag.hf.identity import identify
    from seka_rag.learning.cloze import document_triples
    from seka_rag.learning.experts import learn_experts
    from seka_rag.learning.shards import Share, save_statistics
    from seka_rag.learning.shards import shard as share_of
    from seka_rag.learning.statistics import collect_statistics
    from seka_rag.learning.tasks.lookup import template_triples
    from seka_rag.learning.triples import read_triples
    from seka_rag.model.steered import SteeredModel
    from seka_rag.retrieval.documents import read_documents

    if triples and docs:
        raise LearningError("give --triples or --docs, not both")
    if (out is None) == (statistics_out is None):
        raise LearningError("give --out for a bank, or --statistics-out for the statistics of a share")
    if shard and out:
        raise LearningError("a bank of one share is not the bank of all: give --statistics-out, then seka-rag merge")
    settings: dict[str, Any] = {"energy": energy, "min_gap": min_gap, "best": best, "quantile": quantile}
    settings |= {"negative": negative, "suggested_gain": gain}

    def from_documents(folder: Path) -> Any:
        made = document_triples([d.text for d in read_documents(folder, encoding=encoding)], n, seed)
        if len(made) < n:
            errors.print(
                f"[yellow]warning:[/] the documents give {len(made)} triples, not {n}: a sentence gives few questions. Give "
                "more documents, or a smaller --n"
            )
        return made

    if experts or expert:
        if triples or out is None:
            raise LearningError("experts are learned whole: give --out, and your own triples as --expert NAME=FILE")
        some = expert_triples(experts, expert or [], n, seed)
        if docs:
            some["documents"] = from_documents(docs)
        check_target(out, expert_files(some), "an expert bank")
        quiet()
        loaded = SteeredModel.from_pretrained(model)
        with progress(f"learning {', '.join(some)}", sum(map(len, some.values()))) as advance:
            bank = learn_experts(loaded, some, progress=advance, **settings)
        bank.save(out)
        console.print(f"{bank!r}\nsaved to {out}", highlight=False)
        return
    if out is not None:
        check_target(out, FILES)
    if triples:
        data = read_triples(triples)
    elif docs:
        data = from_documents(docs)
    else:
        data = template_triples(n, seed)
    share = None
    if shard:
        index, count = _parsed(shard)
        share = Share.of(data, index, count)
        data = share_of(data, index, count)
    quiet()
    loaded = SteeredModel.from_pretrained(model)
    if statistics_out:
        with progress("collecting", len(data)) as advance:
            found = collect_statistics(loaded.hf_model, loaded.tokenizer, data, progress=advance)
        save_statistics(statistics_out, identify(loaded.hf_model), found, share)
        console.print(
            f"{found.triples} triples, {found.tokens} tokens, {found.skipped} skipped; saved to {statistics_out}"
        )
        return
    assert out is not None
    save_bank(learn_with_progress(loaded, data, **settings), out)


def learn_with_progress(model: Any, triples: Any, **settings: Any) -> Any:
    """``learn_bank`` with a bar."""
    from seka_rag.learning.learn import learn_bank

    with progress("learning", len(triples)) as advance:
        return learn_bank(model, triples, progress=advance, **settings)


def save_bank(bank: Any, out: Path) -> None:
    bank.save(out)
    learning = bank.learning
    console.print(f"{bank!r}\nlearned from {learning.triples} triples, {learning.tokens} tokens", highlight=False)
    if learning.skipped:
        console.print(f"{learning.skipped} triples skipped: their answers have other tokens in other prompts")
    console.print(f"saved to {out}")


def _parsed(shard: str) -> tuple[int, int]:
    from seka_rag.errors import LearningError

    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise LearningError(f"--shard {shard}: write 1/4 for the first of four shares")
    return int(index) - 1, int(count)
