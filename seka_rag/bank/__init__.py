"""Banks: what was learned for one model, as files and on the Hub."""

from seka_rag.bank.experts import ExpertBank, load_bank
from seka_rag.bank.projections import Learning, ProjectionBank

__all__ = ["ExpertBank", "Learning", "ProjectionBank", "load_bank"]
