"""``python -m seka_rag.cli``."""

from seka_rag.cli.commands import app

app()
