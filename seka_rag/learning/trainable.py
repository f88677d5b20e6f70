"""What can be trained for steering, the model frozen: vectors, strengths of heads, and subspaces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from seka_rag.bank import ProjectionBank
from seka_rag.errors import SettingError
from seka_rag.hf.sites import KeySites
from seka_rag.ops.bias import BiasEdit
from seka_rag.ops.edits import Edit
from seka_rag.ops.keys import KeyEdit
from seka_rag.steering.key_bias import KeyBias
from seka_rag.steering.key_editing import KeyEditing
from seka_rag.steering.key_vector import KeyVector
from seka_rag.steering.seka import Seka

#: What can be trained.
Training: TypeAlias = Literal["vectors", "strengths", "subspaces"]
#: Tensors by name, ``kind.layer``.
Tensors = Mapping[str, Tensor]

_LENGTHS = (0.7, 1.0, 1.4, 2.0)  # of what was trained, to be measured


class Trainable(ABC):
    """One kind of training: tensors to begin with, the edits that they make, and the bank that keeps them.

    Args:
        bank: learned, of all heads.
        begin: ``[L, H]`` how strongly each head is steered at first; heads at 0 are trained too.
        sites: of the model.

    Attributes:
        method: what steers with them, at the strength for which they are trained.
        slower: kind of tensor -> share of the learning rate; 1 for others.
    """

    method: ClassVar[KeyEditing]
    slower: ClassVar[Mapping[str, float]] = {}

    def __init__(self, bank: ProjectionBank, begin: Tensor, sites: KeySites) -> None:
        self.learned, self.begin, self.sites = bank, begin, sites

    @abstractmethod
    def start(self) -> dict[str, Tensor]:
        """The tensors before the first step."""

    @abstractmethod
    def edits(self, tensors: Tensors) -> dict[int, Edit]:
        """Layer -> edit, through which gradients flow."""

    @abstractmethod
    def bank(self, tensors: Tensors, best: ProjectionBank) -> ProjectionBank:
        """A bank with which ``methods`` do what was trained.

        Args:
            best: that of the best untrained setting.
        """

    @property
    def methods(self) -> list[KeyEditing]:
        """What is measured after training: 0.7, 1, 1.4 and 2 times what was trained."""
        return [self.method.with_strength(length * self.method.strength) for length in _LENGTHS]


class Vectors(Trainable):
    """One vector for each head, added to highlighted keys: ``vector.layer [H, D]``, from those of a key bias of one nat."""

    method: ClassVar[KeyEditing] = KeyVector(gain=1.0, fade="sentence")

    def start(self) -> dict[str, Tensor]:
        unit = KeyBias(bias=1.0).edits(self.learned, self.sites)
        found = {}
        for layer in self.sites.modules:
            if layer > 0:  # before rotary positions its keys depend on the token alone
                found[f"vector.{layer}"] = vectors = torch.zeros(self.sites.heads, self.sites.head_dim)
                if isinstance(edit := unit.get(layer), BiasEdit):
                    vectors[edit.heads] = edit.vectors * self.begin[layer][edit.heads, None]
        return found

    def edits(self, tensors: Tensors) -> dict[int, Edit]:
        return {layer: BiasEdit(torch.arange(len(v)), v, None) for layer, v in by_layer(tensors, "vector").items()}

    def bank(self, tensors: Tensors, best: ProjectionBank) -> ProjectionBank:
        return best.changed(vectors=by_layer(tensors, "vector"))


class Strengths(Trainable):
    """How strongly a key bias steers each head: ``strength.layer [h]``, a factor of the bias of any sign."""

    method: ClassVar[KeyEditing] = KeyBias(bias=2.0, fade="sentence")

    def __init__(self, bank: ProjectionBank, begin: Tensor, sites: KeySites) -> None:
        super().__init__(bank, begin, sites)
        self.whole = self.method.edits(bank.changed(strengths=None), sites)

    def start(self) -> dict[str, Tensor]:
        return {f"strength.{layer}": self.begin[layer][edit.heads] for layer, edit in self.whole.items()}

    def edits(self, tensors: Tensors) -> dict[int, Edit]:
        return {layer: self.whole[layer].scaled(s) for layer, s in by_layer(tensors, "strength").items()}

    def bank(self, tensors: Tensors, best: ProjectionBank) -> ProjectionBank:
        return self.learned.changed(strengths=self._spread(tensors))

    def _spread(self, tensors: Tensors) -> Tensor:
        """``[L, H]``, 0 where nothing was trained."""
        found = torch.zeros_like(self.begin)
        for layer, strengths in by_layer(tensors, "strength").items():
            found[layer, self.whole[layer].heads] = strengths
        return found


class Subspaces(Strengths):
    """The learned subspaces, turned, and how strongly SEKA steers each head.

    ``turn.layer [h, D, D]`` and ``strength.layer [h]``: factors become ``Q U`` with Cayley's
    ``Q = (I - A)^-1 (I + A)``, ``A = turn - turn^T``, so that columns stay orthonormal and ranks what they are.
    """

    method: ClassVar[KeyEditing] = Seka(gain=0.5, fade="sentence")
    slower: ClassVar[Mapping[str, float]] = {"turn": 0.1}

    def start(self) -> dict[str, Tensor]:
        d = self.sites.head_dim
        turns = {f"turn.{layer}": torch.zeros(len(edit.heads), d, d) for layer, edit in self.whole.items()}
        return {**turns, **super().start()}

    def edits(self, tensors: Tensors) -> dict[int, Edit]:
        turns, strengths = by_layer(tensors, "turn"), by_layer(tensors, "strength")
        found: dict[int, Edit] = {}
        for layer, edit in self.whole.items():
            factors = turned(turns[layer], self.learned.positive[layer][edit.heads])
            found[layer] = KeyEdit(edit.heads, factors, self.method.strength * factors.mT).scaled(strengths[layer])
        return found

    def bank(self, tensors: Tensors, best: ProjectionBank) -> ProjectionBank:
        positive = {layer: factors.clone() for layer, factors in self.learned.positive.items()}
        for layer, turn in by_layer(tensors, "turn").items():
            heads = self.whole[layer].heads
            positive[layer][heads] = turned(turn.double(), positive[layer][heads].double()).float()
        # the singular values belonged to the columns as they were learned
        return self.learned.changed(positive=positive, singular_values={}, strengths=self._spread(tensors))


#: What each kind of training is.
TRAINABLES: dict[Training, type[Trainable]] = {"vectors": Vectors, "strengths": Strengths, "subspaces": Subspaces}


def trainings(names: str | None) -> tuple[Training, ...]:
    """Kinds of training from names with commas, "all", or None for none.

    Raises:
        SettingError: an unknown name; says which there are.
    """
    known: tuple[Training, ...] = get_args(Training)
    if names is None or names.strip() == "all":
        return () if names is None else known
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise SettingError(f"nothing is trained by the name {unknown[0]!r}: there are {', '.join(known)}, and all")
    return tuple(name for name in known if name in wanted)


def turned(turn: Tensor, factors: Tensor) -> Tensor:
    """``Q U`` with the rotation Q of ``turn [h, D, D]``; 0 turns nothing."""
    skew, eye = turn - turn.mT, torch.eye(turn.shape[-1], dtype=turn.dtype)
    found: Tensor = torch.linalg.solve(eye - skew, (eye + skew) @ factors)
    return found


def by_layer(tensors: Tensors, kind: str) -> dict[int, Tensor]:
    """The tensors of one kind: layer -> tensor."""
    named = {name: name.partition(".") for name in tensors}
    return {int(layer): tensors[name] for name, (first, _, layer) in named.items() if first == kind}
