"""The triples that a command learns from: of templates, of the user's documents, or of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seka_rag.cli.terminal import errors, left_out

if TYPE_CHECKING:
    from seka_rag.learning.triples import ContrastiveTriple


@dataclass(frozen=True)
class Source:
    """Where triples come from: a file of them, a folder of documents, or else the templates.

    Attributes:
        n, seed: how many are made of templates or documents, and which.
        encoding: of the documents; None to recognise it.
        strict: whether a document that cannot be read is an error; else it is named and left out.

    Raises:
        SettingError: both a file and documents.
    """

    file: Path | None
    docs: Path | None
    n: int
    seed: int
    encoding: str | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        from seka_rag.errors import SettingError

        if self.file and self.docs:
            raise SettingError("give --triples or --docs, not both")

    def read(self) -> Sequence[ContrastiveTriple]:
        """The triples of one bank.

        Raises:
            LearningError: a file that cannot be read.
            DocumentError: documents that cannot be read.
        """
        from seka_rag.learning.tasks.lookup import template_triples
        from seka_rag.learning.triples import read_triples

        if self.file:
            return read_triples(self.file)
        return self.of_documents() if self.docs else template_triples(self.n, self.seed)

    def of_experts(self, names: str | None, files: Sequence[str]) -> dict[str, Sequence[ContrastiveTriple]]:
        """Triples of the built-in tasks (``all``, or names with commas), of files (``NAME=FILE``) and of the documents.

        Raises:
            SettingError: an unknown task, or a name that is taken.
            LearningError: a file that cannot be read.
        """
        from seka_rag.errors import SettingError
        from seka_rag.learning.experts import task_triples
        from seka_rag.learning.triples import read_triples

        if self.file:
            raise SettingError("experts have triples each: give your own as --expert NAME=FILE, not as --triples")
        chosen = None if names == "all" else [name.strip() for name in (names or "").split(",") if name.strip()]
        triples: dict[str, Sequence[ContrastiveTriple]] = {**task_triples(chosen, self.n, self.seed)}
        for item in files:
            name, equals, file = item.partition("=")
            if not equals or not name or not file:
                raise SettingError(f"--expert {item!r}: write NAME=FILE, a file of triples as --triples takes")
            if name in triples:
                raise SettingError(f"--expert {item!r}: there is an expert {name!r} already")
            triples[name] = read_triples(file)
        if self.docs:
            triples["documents"] = self.of_documents()
        return triples

    def of_documents(self) -> Sequence[ContrastiveTriple]:
        from seka_rag.learning.cloze import document_triples
        from seka_rag.retrieval.documents import read_documents

        assert self.docs is not None
        documents = read_documents(self.docs, encoding=self.encoding, on_error="raise" if self.strict else left_out)
        made = document_triples([d.text for d in documents], self.n, self.seed)
        if len(made) < self.n:
            errors.print(
                f"[yellow]warning:[/] the documents give {len(made)} triples, not {self.n}: a sentence gives few questions. "
                "Give more documents, or a smaller --n"
            )
        return made
