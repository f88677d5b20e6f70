"""The command line, one file a command."""

from seka_rag.cli.commands import app

__all__ = ["app"]
