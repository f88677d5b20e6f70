"""The client of a server of ours: a model elsewhere, used like one in this process."""

from __future__ import annotations

from seka_rag.server.client.remote import RemoteModel

__all__ = ["RemoteModel"]
