"""Answers that follow the evidence: attention steering for retrieval-augmented generation.

Spectral Editing Key Amplification (SEKA) edits the attention keys of highlighted prompt tokens, once, at prefill.

Importing this package loads nothing else; each name is loaded from its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seka_rag.bank import ExpertBank, ProjectionBank, load_bank
    from seka_rag.errors import SekaError
    from seka_rag.highlight.select import AllPassages, TopK
    from seka_rag.highlight.sentences import Sentences
    from seka_rag.highlight.similar import Similar
    from seka_rag.highlight.trust import Trusted, TrustPolicy
    from seka_rag.learning.calibrate import calibrate
    from seka_rag.learning.cloze import document_triples
    from seka_rag.learning.experts import learn_experts, task_triples
    from seka_rag.learning.learn import learn_bank
    from seka_rag.learning.tasks.lookup import template_triples
    from seka_rag.learning.triples import ContrastiveTriple, read_triples, write_triples
    from seka_rag.model.citations import Citation
    from seka_rag.model.generation import Generation
    from seka_rag.model.retrieval_heads import RetrievalHeads
    from seka_rag.model.scope import highlighting
    from seka_rag.model.steered import SteeredModel
    from seka_rag.rag import Rag
    from seka_rag.retrieval.bm25 import BM25Retriever
    from seka_rag.retrieval.documents import read_documents
    from seka_rag.server.client import RemoteModel
    from seka_rag.steering.adaseka import AdaSeka, route
    from seka_rag.steering.attention_bias import AttentionBias
    from seka_rag.steering.base import SteeringMethod, steer
    from seka_rag.steering.context_aware import ContextAware
    from seka_rag.steering.key_bias import KeyBias
    from seka_rag.steering.key_editing import KeyEditing
    from seka_rag.steering.key_scaling import KeyScaling
    from seka_rag.steering.key_vector import KeyVector
    from seka_rag.steering.prism import Prism
    from seka_rag.steering.random_projection import RandomProjection
    from seka_rag.steering.registry import register
    from seka_rag.steering.report import SteeringReport
    from seka_rag.steering.seka import Seka
    from seka_rag.text.passages import Passage
    from seka_rag.text.prompt import Prompt
    from seka_rag.text.spans import Span

__version__ = "0.1.0"

_MODULES = {
    "seka_rag.bank": ("ExpertBank", "ProjectionBank", "load_bank"),
    "seka_rag.errors": ("SekaError",),
    "seka_rag.highlight.select": ("AllPassages", "TopK"),
    "seka_rag.highlight.sentences": ("Sentences",),
    "seka_rag.highlight.similar": ("Similar",),
    "seka_rag.highlight.trust": ("TrustPolicy", "Trusted"),
    "seka_rag.learning.calibrate": ("calibrate",),
    "seka_rag.learning.cloze": ("document_triples",),
    "seka_rag.learning.experts": ("learn_experts", "task_triples"),
    "seka_rag.learning.learn": ("learn_bank",),
    "seka_rag.learning.tasks.lookup": ("template_triples",),
    "seka_rag.learning.triples": ("ContrastiveTriple", "read_triples", "write_triples"),
    "seka_rag.model.citations": ("Citation",),
    "seka_rag.model.generation": ("Generation",),
    "seka_rag.model.retrieval_heads": ("RetrievalHeads",),
    "seka_rag.model.scope": ("highlighting",),
    "seka_rag.model.steered": ("SteeredModel",),
    "seka_rag.rag": ("Rag",),
    "seka_rag.retrieval.bm25": ("BM25Retriever",),
    "seka_rag.retrieval.documents": ("read_documents",),
    "seka_rag.server.client": ("RemoteModel",),
    "seka_rag.steering.adaseka": ("AdaSeka", "route"),
    "seka_rag.steering.attention_bias": ("AttentionBias",),
    "seka_rag.steering.base": ("SteeringMethod", "steer"),
    "seka_rag.steering.context_aware": ("ContextAware",),
    "seka_rag.steering.key_bias": ("KeyBias",),
    "seka_rag.steering.key_editing": ("KeyEditing",),
    "seka_rag.steering.key_scaling": ("KeyScaling",),
    "seka_rag.steering.key_vector": ("KeyVector",),
    "seka_rag.steering.prism": ("Prism",),
    "seka_rag.steering.random_projection": ("RandomProjection",),
    "seka_rag.steering.registry": ("register",),
    "seka_rag.steering.report": ("SteeringReport",),
    "seka_rag.steering.seka": ("Seka",),
    "seka_rag.text.passages": ("Passage",),
    "seka_rag.text.prompt": ("Prompt",),
    "seka_rag.text.spans": ("Span",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AdaSeka",
    "AllPassages",
    "AttentionBias",
    "BM25Retriever",
    "Citation",
    "ContextAware",
    "ContrastiveTriple",
    "ExpertBank",
    "Generation",
    "KeyBias",
    "KeyEditing",
    "KeyScaling",
    "KeyVector",
    "Passage",
    "Prism",
    "ProjectionBank",
    "Prompt",
    "Rag",
    "RandomProjection",
    "RemoteModel",
    "RetrievalHeads",
    "Seka",
    "SekaError",
    "Sentences",
    "Similar",
    "Span",
    "SteeredModel",
    "SteeringMethod",
    "SteeringReport",
    "TopK",
    "TrustPolicy",
    "Trusted",
    "calibrate",
    "document_triples",
    "highlighting",
    "learn_bank",
    "learn_experts",
    "load_bank",
    "read_documents",
    "read_triples",
    "register",
    "route",
    "steer",
    "task_triples",
    "template_triples",
    "write_triples",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_WHERE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
