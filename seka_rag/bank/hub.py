"""Folders on the Hugging Face Hub: fetched at one commit, uploaded in one commit."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from seka_rag.errors import BankError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_folder(
    name_or_path: str | os.PathLike[str], files: Sequence[str], *, revision: str | None = None, **options: object
) -> Path:
    """A folder of this machine, or the files of a Hub repository, all of one commit.

    Args:
        name_or_path: a folder, or ``owner/name`` of a model repository.
        files: names to fetch.
        revision: branch, tag or commit on the Hub.
        options: further arguments of ``huggingface_hub.snapshot_download`` (``token``, ``cache_dir``,
            ``local_files_only``, ...).

    Raises:
        BankError: neither a folder nor fetched from the Hub; says why.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # of httpx or httpx2, whichever it uses

    path = Path(name_or_path)
    if path.exists():
        if revision is not None:
            raise BankError(f"{path} is a folder here, so revision={revision!r} means nothing; leave it out")
        return path
    if not isinstance(name_or_path, str) or not _NAME.fullmatch(name_or_path):
        raise BankError(f"{path} is not a bank: there is no such folder, and a name on the Hub has the form owner/name")
    try:
        return Path(snapshot_download(name_or_path, revision=revision, allow_patterns=list(files), **options))
    except (HTTPError, OSError, ValueError) as error:
        raise BankError(_explain(name_or_path, revision, error)) from error


def upload_files(
    repo_id: str,
    files: Mapping[str, bytes],
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    message: str = "Upload bank",
    create_pr: bool = False,
) -> str:
    """Upload files in one commit, making the repository if needed.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        BankError: not a name of the Hub, no right to write there, or the Hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError  # of httpx or httpx2, whichever it uses

    if not _NAME.fullmatch(repo_id):
        raise BankError(f"{repo_id!r} is not a name of the Hub: give owner/name")
    api = HfApi(token=token, library_name="seka-rag")
    operations = [CommitOperationAdd(name, data) for name, data in files.items()]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(repo_id, operations, commit_message=message, revision=revision, create_pr=create_pr)
    except (HTTPError, OSError, ValueError) as error:
        raise BankError(f"could not upload to {repo_id!r}: {_reason(error)}") from error
    return str(commit.pr_url or commit.commit_url)


def _explain(name: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        why = "it is gated: ask for access on its page, then log in with `hf auth login` or pass token=..."
    elif isinstance(error, RepositoryNotFoundError):
        why = "there is no such repository, or it is private: check the name, log in with `hf auth login` or pass token=..."
    elif isinstance(error, RevisionNotFoundError):
        why = f"it has no revision {revision!r}"
    else:
        why = f"check the network, or give a folder. (Reason: {_reason(error)})"
    return f"bank {name!r} is neither a folder here nor could it be fetched from the Hugging Face Hub: {why}"


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"
