"""Methods that are compared: each family is one line here, with the strengths at which it is tried."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Any

from seka_rag.bank import Bank
from seka_rag.bench.shipped import shipped_bank
from seka_rag.errors import SettingError
from seka_rag.highlight.registry import HIGHLIGHTERS
from seka_rag.steering.adaseka import AdaSeka
from seka_rag.steering.attention_bias import AttentionBias
from seka_rag.steering.base import SteeringMethod
from seka_rag.steering.context_aware import ContextAware
from seka_rag.steering.key_bias import KeyBias
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.key_vector import KeyVector
from seka_rag.steering.prism import Prism
from seka_rag.steering.random_projection import RandomProjection
from seka_rag.steering.registry import suggested
from seka_rag.steering.seka import Seka

#: Banks that variants name: that of the model, one learned as the library first learned them, and subspaces of differences of
#: keys and of values, on all heads or on those that the model's bank keeps.
MODEL, FIRST, DIFFERENCE, DIFFERENCE_HEADS = "model", "as first shipped", "differences", "differences, the same heads"
#: The bank that ships with the model, whichever it is run with.
SHIPPED = "shipped"
#: What can be highlighted: the evidence, another sentence, every passage; what a highlighter chooses, or "sentences" where a
#: policy trusts all passages but those of "wrong".
HIGHLIGHTS = ("gold", "wrong", "all", "trusted", *(name for name in HIGHLIGHTERS if name not in ("all", "off")))
#: Instructions in front of the prompt, by number, for the rows that steer nothing.
INSTRUCTIONS = (
    "Answer only from the context below, even if it contradicts what you know.",
    "The context below is true and up to date. Use it, not your memory, to answer the question.",
    "Read the context carefully. Find the sentence that answers the question and repeat its answer.",
)
MARKED = "The evidence is marked with **."


@dataclass(frozen=True)
class Variant:
    """One way of answering: what is highlighted, how the model is steered, how the prompt is worded.

    Attributes:
        method: name of the family.
        steering: None runs the plain model.
        bank: MODEL, FIRST, DIFFERENCE, DIFFERENCE_HEADS or SHIPPED.
        highlight: one of HIGHLIGHTS, or None if nothing is highlighted.
        before: stands in front of the prompt.
        marked: whether highlights are written into the text, between ``**``.
        extra: further settings that tell it from others of its family.
    """

    method: str
    steering: SteeringMethod | None = None
    bank: str = MODEL
    highlight: str | None = None
    before: str = ""
    marked: bool = False
    extra: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of_key(cls, key: str) -> Variant:
        """One of the same key, to report and not to run."""
        method, brace, settings = key.partition(" {")
        return cls(method, extra=tuple(json.loads(brace.strip() + settings).items()))

    @property
    def settings(self) -> dict[str, object]:
        """All that distinguishes it, as plain data."""
        steering = {} if self.steering is None else self.steering.as_dict()
        given = {"highlight": self.highlight, "before": self.before or None, "marked": self.marked or None}
        bank = {"bank": self.bank} if self.steering is not None and self.bank != MODEL else {}
        return {k: v for k, v in {**steering, **given, **bank, **dict(self.extra)}.items() if v is not None}

    @property
    def key(self) -> str:
        """A text that tells it from all others."""
        return f"{self.method} {json.dumps(self.settings, sort_keys=True)}"

    @property
    def strength(self) -> float | None:
        return None if self.steering is None else self.steering.strength


@dataclass(frozen=True)
class Family:
    """One line of the table of methods.

    Attributes:
        name: on the command line and in results.
        variants: from the model's bank to its variants, without highlights.
        quick: whether it is tried by default with few examples.
        steers: whether there is something to highlight.
        needs: what the bank must hold ("queries", "vectors", "steering"), else it is left out where no methods are named.
        usual: whether it is tried where no methods are named.
    """

    name: str
    variants: Callable[[Bank | None], Sequence[Variant]]
    quick: bool = False
    steers: bool = True
    needs: str | None = None
    usual: bool = True

    def fits(self, bank: Bank | None) -> bool:
        """Whether it can be tried with this bank."""
        if self.needs is not None and not getattr(bank, self.needs, None):
            return False
        kinds = [v.steering.bank_type for v in self.variants(bank) if v.steering is not None and v.bank == MODEL]
        return all(kind is None or isinstance(bank, kind) for kind in kinds)


def _at(name: str, method: SteeringMethod, strengths: Iterable[float], bank: Bank | None) -> list[Variant]:
    return [Variant(name, method.with_strength(s)) for s in strengths]


def steered(
    name: str, method: SteeringMethod, *strengths: float, quick: bool = False, needs: str | None = None
) -> Family:
    """A family of one steering method at several strengths."""
    return Family(name, partial(_at, name, method, strengths), quick, needs=needs)


def _prism(name: str, bank_name: str, value_share: float, *gains: float) -> Family:
    """PRISM at several gains; values get a share of the gain of keys."""
    some = [Variant(name, Prism(gain=g, gain_value=value_share * g), bank_name) for g in gains]
    return Family(name, lambda bank: some)


def _suggested(name: str, factors: Iterable[float], bank: Bank | None) -> list[Variant]:
    if bank is None:
        raise SettingError(f"the method {name!r} is that of the model's bank, and this model has none: give --bank")
    method = suggested(bank)
    return [Variant(name, method.with_strength(f * method.strength)) for f in factors]


def _random(bank: Bank | None) -> list[Variant]:
    return [Variant("random-projection", RandomProjection(gain=1.0, seed=seed)) for seed in range(5)]


def _adaseka(name: str, method: AdaSeka, *gains: float) -> Family:
    return Family(name, partial(_at, name, method, gains), needs="names")


def _each_expert(bank: Bank | None) -> list[Variant]:
    names = () if bank is None else bank.names
    return [v for name in names for v in _at(f"expert {name}", AdaSeka(expert=name), (1.0, 2.0), bank)]


def _calibrated(bank: Bank | None) -> list[Variant]:
    found = None if bank is None else shipped_bank(bank.model)
    if found is None:
        raise SettingError("the method 'calibrated' is that of the bank that ships with a model: this one has none")
    digest = (("digest", found.digest),)
    return [replace(v, bank=SHIPPED, extra=digest) for v in _suggested("calibrated", (0.5, 1.0, 2.0), found)]


_FAMILIES = (
    Family("plain", lambda bank: [Variant("plain")], quick=True, steers=False),
    Family(
        "instruction",
        lambda bank: [Variant("instruction", before=text) for text in INSTRUCTIONS],
        steers=False,
    ),
    Family("marked", lambda bank: [Variant("marked", before=MARKED, marked=True)]),
    Family("seka-first", lambda bank: [Variant("seka-first", Seka(gain=0.5), FIRST)]),
    Family("suggested", partial(_suggested, "suggested", (0.5, 1.0, 2.0)), quick=True, needs="steering"),
    Family("default", partial(_suggested, "default", (1.0,)), usual=False, needs="steering"),
    steered("seka", Seka(), 0.5, 1.0, 2.0),
    steered("key-scaling", KeyScaling(), 0.25, 0.5, 1.0, quick=True),
    Family("random-projection", _random),
    steered("key-bias", KeyBias(), 1.0, 2.0, 4.0, quick=True, needs="queries"),
    steered("key-bias-fading", KeyBias(fade="sentence"), 1.0, 2.0, 4.0, needs="queries"),
    steered("key-bias-mean", KeyBias(form="mean"), 1.0, 2.0, 4.0, needs="queries"),
    steered("key-bias-request", KeyBias(form="request"), 1.0, 2.0, 4.0),
    steered("key-vector", KeyVector(), 0.7, 1.0, 1.4, needs="vectors"),
    steered("key-vector-fading", KeyVector(fade="sentence"), 0.7, 1.0, 1.4, needs="vectors"),
    _prism("prism", DIFFERENCE_HEADS, 0.0, 0.25, 0.5, 1.0),
    _prism("prism-values", DIFFERENCE_HEADS, 0.25, 0.25, 0.5, 1.0),  # the paper's shares of gain: .4 and .1
    _prism("prism-all", DIFFERENCE, 0.25, 0.1, 0.2, 0.4),
    _adaseka("adaseka", AdaSeka(), 0.5, 1.0),
    _adaseka("adaseka-choice", AdaSeka(temperature=0.1), 1.0, 2.0),  # nearly one expert a head
    _adaseka("adaseka-signed", AdaSeka(router="signed"), 0.25),  # the paper's
    _adaseka("adaseka-uniform", AdaSeka(router="uniform"), 0.5, 1.0),
    _adaseka("adaseka-key-bias", AdaSeka(mixed=KeyBias(), temperature=0.1), 1.0, 2.0),
    _adaseka("adaseka-random", AdaSeka(router="random", temperature=0.1), 1.0, 2.0),
    Family("expert", _each_expert, needs="names"),
    Family("calibrated", _calibrated, usual=False),
    steered("attention-bias", AttentionBias(), 1.0, 2.0, 4.0),  # InstABoost
    steered("attention-bias-heads", AttentionBias(heads="bank"), 2.0, 4.0, 8.0),  # PASTA
    steered("spotlight", AttentionBias(target=0.3), 1.0, 2.0, 10.0),
    steered("cad", ContextAware(), 0.25, 0.5, 1.0),
    steered("adacad", ContextAware(adaptive=True), 1.0, 2.0, 4.0),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _FAMILIES}


def choose(
    names: Sequence[str] | None, bank: Bank | None, *, quick: bool = False, highlights: Sequence[str] = ("gold",)
) -> list[Variant]:
    """The variants of some families under each of some highlights; the plain model always comes first.

    Args:
        names: of families; None for all that fit the bank, or for the quick ones among them.
        bank: of the model.

    Raises:
        SettingError: an unknown family or highlight.
    """
    fitting = [f.name for f in _FAMILIES if f.usual and (f.quick or not quick) and f.fits(bank)]
    wanted = fitting if names is None else list(names)
    for name in wanted:
        check_name("method", name, FAMILIES)
    for name in highlights:
        check_name("highlight", name, HIGHLIGHTS)
    found: list[Variant] = []
    for name in dict.fromkeys(["plain", *wanted]):
        family = FAMILIES[name]
        for variant in family.variants(bank):
            found += [replace(variant, highlight=h) for h in highlights] if family.steers else [variant]
    return found


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise unless a name is known.

    Raises:
        SettingError: it is not; says which is nearest and which there are.
    """
    names = list(known)
    if name not in names:
        near = get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SettingError(f"unknown {kind} {name!r}: {hint}there are {', '.join(names)}")
