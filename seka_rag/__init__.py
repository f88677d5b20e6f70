"""Answers that follow the evidence: attention steering for retrieval-augmented generation.

Spectral Editing Key Amplification (SEKA) edits the attention keys of highlighted prompt tokens, once, at prefill.
"""

from seka_rag.bank import ExpertBank, ProjectionBank, load_bank
from seka_rag.errors import SekaError
from seka_rag.highlight.base import Highlighter, check_spans
from seka_rag.highlight.registry import as_highlighter
from seka_rag.highlight.trust import choose_spans
from seka_rag.learning.calibrate import calibrate
from seka_rag.learning.experts import learn_experts
from seka_rag.learning.learn import learn_bank
from seka_rag.learning.triples import ContrastiveTriple
from seka_rag.model.generation import Generation
from seka_rag.model.scope import highlighting, open_highlighting
from seka_rag.model.shared import bank_name, shared_model
from seka_rag.model.steered import SteeredModel
from seka_rag.retrieval.retrievers import as_passage
from seka_rag.server.client import RemoteModel
from seka_rag.steering.adaseka import AdaSeka, route
from seka_rag.steering.base import SteeringMethod, SteeringReport, steer
from seka_rag.steering.key_bias import KeyBias
from seka_rag.steering.key_editing import KeyEditing
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.key_vector import KeyVector
from seka_rag.steering.random_projection import RandomProjection
from seka_rag.steering.registry import as_steering, register, steering_as_dict
from seka_rag.steering.seka import Seka
from seka_rag.text.passages import Passage
from seka_rag.text.prompt import Prompt
from seka_rag.text.provenance import Placement, locate_values
from seka_rag.text.spans import Span
from seka_rag.text.toolcalls import InvalidToolCall, ToolCall

__version__ = "0.1.0"

__all__ = [
    "AdaSeka",
    "ContrastiveTriple",
    "ExpertBank",
    "Generation",
    "Highlighter",
    "InvalidToolCall",
    "KeyBias",
    "KeyEditing",
    "KeyScaling",
    "KeyVector",
    "Passage",
    "Placement",
    "ProjectionBank",
    "Prompt",
    "RandomProjection",
    "RemoteModel",
    "SekaError",
    "Seka",
    "Span",
    "SteeredModel",
    "SteeringMethod",
    "SteeringReport",
    "ToolCall",
    "as_highlighter",
    "as_passage",
    "as_steering",
    "bank_name",
    "calibrate",
    "check_spans",
    "choose_spans",
    "highlighting",
    "learn_bank",
    "learn_experts",
    "load_bank",
    "locate_values",
    "open_highlighting",
    "register",
    "route",
    "shared_model",
    "steer",
    "steering_as_dict",
]
