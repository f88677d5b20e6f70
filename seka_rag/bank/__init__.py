"""Banks: what was learned for one model, as files and on the Hub."""

from seka_rag.bank.base import Bank
from seka_rag.bank.experts import ExpertBank, load_bank
from seka_rag.bank.header import Learning
from seka_rag.bank.projections import ProjectionBank

__all__ = ["Bank", "ExpertBank", "Learning", "ProjectionBank", "load_bank"]
