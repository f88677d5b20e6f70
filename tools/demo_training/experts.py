"""AdaSEKA on the demo model: four tasks, an expert for each, and what choosing among them is worth.

``python -m tools.demo_training.experts MODEL_FOLDER`` prints the table (development split; ``--held-out`` the other one).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from seka_rag.bank import ExpertBank
from seka_rag.bench.rates import Rate
from seka_rag.demo import words as w
from seka_rag.demo import world
from seka_rag.demo.evaluate import edit_norm
from seka_rag.demo.trials import Split, Trial, ask, demo_triples, make_trials, strangers, tokenized
from seka_rag.demo.world import Fact
from seka_rag.errors import SettingError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.tokens import pad, pad_id
from seka_rag.learning.experts import learn_experts
from seka_rag.learning.triples import ContrastiveTriple
from seka_rag.model.steered import SteeredModel
from seka_rag.steering.adaseka import AdaSeka, route
from seka_rag.steering.base import SteeringMethod, steer
from seka_rag.text.spans import Span
from tools.demo_training import lessons

_JOB = next(i for i, relation in enumerate(w.RELATIONS) if relation.name == "job")
NEEDLE_STATEMENTS = 16


# --- tasks: what is highlighted, and what a right answer is


def conflict_trials(n: int, split: Split) -> list[Trial]:
    """One of six statements contradicts memory."""
    return make_trials("conflict", n, split, first_seed=1)


def needle_trials(n: int, split: Split) -> list[Trial]:
    """One of sixteen statements contradicts memory."""
    return make_trials("conflict", n, split, statements=NEEDLE_STATEMENTS, first_seed=1)


def instruction_trials(n: int, split: Split) -> list[Trial]:
    """Numbered passages disagree, and an instruction, which is highlighted, says which of them to answer from."""
    rng = np.random.default_rng([31, split == "held-out"])
    trials: list[Trial] = []
    for _ in range(n):
        passages, question, chosen, facts = lessons.numbered_disagreement(rng, training=split == "development")
        order = f"Answer from passage {chosen + 1}."
        text = f"{order}\n{passages}\n{question}" if rng.random() < 0.4 else f"{passages}\n{question} {order}"
        start = text.index(order)
        trials.append(Trial(text, Span(start, start + len(order)), None, facts[chosen].answer, None, True))
    return trials


def biography_trials(n: int, split: Split) -> list[Trial]:
    """A biography describes a trade, and memory has another; the describing sentence is highlighted."""
    rng = np.random.default_rng([37, split == "held-out"])
    trials: list[Trial] = []
    people = [p for p in range(world.KNOWN) if world.held_out_person(p) == (split == "held-out")]
    remembered = [p for p in people if (p, _JOB) in world.MEMORY]
    while len(trials) < n:
        person = int(rng.choice(remembered))
        value = world.random_value(rng, person)
        if value == world.MEMORY[person, _JOB]:
            continue
        memory = Fact(person, _JOB, world.MEMORY[person, _JOB])
        job = w.JOBS[value]
        opening = f"{memory.name} {lessons.pick(rng, w.JOB_HINTS[job])}."
        rest = [f.sentence(rng) for f in strangers(rng, int(rng.integers(1, 5)), split)]
        at = int(rng.integers(len(rest) + 1))
        context = " ".join([*rest[:at], opening, *rest[at:]])
        frame = lessons.pick(rng, world.FIRST[:4] if rng.random() < 0.5 else world.LAST[1:5])
        text = frame.format(c=context, q=memory.question(rng))
        start = text.index(opening)
        trials.append(Trial(text, Span(start, start + len(opening)), None, job, memory.answer, True))
    return trials


TASKS: dict[str, Callable[[int, Split], list[Trial]]] = {
    "conflict": conflict_trials,
    "instruction": instruction_trials,
    "biography": biography_trials,
    "needle": needle_trials,
}


# --- experts: triples of this world, about development people


def instruction_triples(n: int, seed: int) -> list[ContrastiveTriple]:
    """The instruction beside numbered passages; the irrelevant question is about somebody whom they do not name."""
    rng = np.random.default_rng(seed)
    triples: list[ContrastiveTriple] = []
    for _ in range(n):
        passages, question, chosen, facts = lessons.numbered_disagreement(rng)
        order = f"Answer from passage {chosen + 1}."
        context = f"{order}\n{passages}" if rng.random() < 0.5 else f"{passages}\n{order}"
        start = context.index(order)
        other = next(f for f in strangers(rng, 3, "development") if f.person != facts[0].person)
        triples.append(ContrastiveTriple(context, Span(start, start + len(order)), question, other.question(rng)))
    return triples


def biography_triples(n: int, seed: int) -> list[ContrastiveTriple]:
    """The describing sentence of a biography; the irrelevant question asks the trade of somebody else."""
    rng = np.random.default_rng(seed)
    triples: list[ContrastiveTriple] = []
    while len(triples) < n:
        name, text, opening, _ = lessons.biography(rng)
        if world.held_out_person(w.NAMES.index(name)):
            continue
        other = next(f for f in strangers(rng, 3, "development") if f.name != name)
        question = lessons.pick(rng, w.RELATIONS[_JOB].questions)
        start = text.index(opening)
        answer = Span(start, start + len(opening))
        triples.append(ContrastiveTriple(text, answer, question.format(n=name), question.format(n=other.name)))
    return triples


def needle_triples(n: int, seed: int) -> list[ContrastiveTriple]:
    """A statement among sixteen."""
    return demo_triples(n, seed, statements=(NEEDLE_STATEMENTS, NEEDLE_STATEMENTS + 1))


EXPERTS: dict[str, Callable[[int, int], list[ContrastiveTriple]]] = {
    "conflict": demo_triples,
    "instruction": instruction_triples,
    "biography": biography_triples,
    "needle": needle_triples,
}


def demo_experts(model: SteeredModel, n: int = 300, energy: float = 0.97, gain: float = 0.5) -> ExpertBank:
    """One expert a task, each named like its task."""
    triples = {name: make(n, 11) for name, make in EXPERTS.items()}
    return learn_experts(model, triples, energy=energy, suggested_gain=gain)


# --- the table


def correct(model: SteeredModel, trials: Sequence[Trial], method: SteeringMethod | None) -> list[bool]:
    return [a == t.answer for a, t in zip(ask(model, trials, method), trials, strict=True)]


def variants(
    model: SteeredModel, gain: float, top_k: int, trials: Sequence[Trial]
) -> dict[str, dict[str, AdaSeka | None]]:
    """Lines of the table: the method for each task.

    Experts overlap, so a mixture edits more than one of them at the same gain. The fixed choices are therefore shown
    twice: at the gain of AdaSEKA, and at its edit norm.
    """

    def ada(**options: object) -> AdaSeka:
        return AdaSeka(**{"gain": gain, "top_k": top_k, **options})  # type: ignore[arg-type]

    wanted = edit_norm(model, ada(), trials)

    def equal(method: AdaSeka) -> AdaSeka:
        for _ in range(3):  # the norm is nearly linear in the gain
            method = method.model_copy(update={"gain": method.gain * wanted / edit_norm(model, method, trials)})
        return method

    fixed = {f"expert {name} alone": ada(expert=name) for name in EXPERTS} | {"uniform mixture": ada(router="uniform")}
    own = {name: ada(expert=name) for name in TASKS}
    one: dict[str, AdaSeka | None] = {
        "plain": None,
        **fixed,
        **{f"{name}, equal edit norm": equal(method) for name, method in fixed.items()},
        "AdaSEKA, energy": ada(),
        "AdaSEKA, share": ada(router="share"),
        "AdaSEKA, signed (paper)": ada(router="signed"),
        "AdaSEKA, energy, softmax .1, equal edit norm": equal(ada(temperature=0.1)),
        "AdaSEKA, energy, two passes": ada(two_pass=True),
    }
    table: dict[str, dict[str, AdaSeka | None]] = {line: dict.fromkeys(TASKS, method) for line, method in one.items()}
    table["oracle expert"] = {**own}
    table["oracle expert, equal edit norm"] = {name: equal(method) for name, method in own.items()}
    return table


def agreement(model: SteeredModel, trials: Sequence[Trial], method: AdaSeka) -> tuple[float, float]:
    """One pass against two: mean ``|alpha - alpha'|``, and how often both weigh the same expert most (per head)."""
    assert isinstance(model.bank, ExpertBank)
    batch = pad([tokenized(model, t, "evidence") for t in trials], pad_id(model.tokenizer))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    two = route(model.hf_model, model.bank, method, **inputs)
    with torch.inference_mode(), steer(model.hf_model, model.bank, batch.weights, method) as report:
        find_key_sites(model.hf_model).decoder(**inputs, use_cache=False)
    one = torch.cat([report.routing[i] for i in sorted(two)], 1)
    other = torch.cat([two[i] for i in sorted(two)], 1)
    return float((one - other).abs().mean()), float((one.argmax(-1) == other.argmax(-1)).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--gain", type=float, default=0.5)
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--held-out", action="store_true")
    args = parser.parse_args()
    if args.n < 1:
        raise SettingError("--n must be at least 1")
    plain = SteeredModel.from_pretrained(str(args.model))
    experts = demo_experts(plain, gain=args.gain)
    model = SteeredModel(plain.hf_model, plain.tokenizer, bank=experts)
    split: Split = "held-out" if args.held_out else "development"
    trials = {name: make(args.n, split) for name, make in TASKS.items()}
    print(f"{split}, {args.n} trials a task, gain {args.gain:g}, K {args.top_k}; {torch.get_num_threads()} threads")
    few = make_trials("conflict", 64, "development")  # every choice of strength is made here
    for line, methods in variants(model, args.gain, args.top_k, few).items():
        outcomes = {name: correct(model, some, methods[name]) for name, some in trials.items()}
        rates = {name: Rate.of(o) for name, o in outcomes.items()}
        rates["all"] = Rate.of([x for o in outcomes.values() for x in o])
        method = methods["conflict"]
        norm = 0.0 if method is None else edit_norm(model, method, few)
        print(f"{line:45} norm {norm:.2f} ", "  ".join(f"{name} {rate}" for name, rate in rates.items()), flush=True)

    difference, same = agreement(model, few, AdaSeka(gain=args.gain, top_k=args.top_k))
    print(f"one pass against two: weights differ by {difference:.3f} on average, the same first expert in {same:.0%}")


if __name__ == "__main__":
    main()
