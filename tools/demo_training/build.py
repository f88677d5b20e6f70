"""Learn the demo's bank, check the gates and measure: ``python -m tools.demo_training.build MODEL_FOLDER``.

Every choice (gates, strengths) is made on the development split; ``--held-out`` reports the held-out one, once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from seka_rag.demo.evaluate import Variant, against, evaluate, gates, variants
from seka_rag.demo.trials import Kind, Split, ask, demo_triples, make_trials, share
from seka_rag.learning.learn import learn_bank
from seka_rag.model.steered import SteeredModel
from seka_rag.steering.key_bias import KeyBias
from seka_rag.steering.key_editing import KeyEditing
from seka_rag.steering.prism import Prism
from seka_rag.steering.seka import Seka

GAINS, BIASES, PRISM_GAINS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0), (0.5, 1.0, 2.0, 4.0, 8.0), (0.1, 0.25, 0.5, 1.0)
#: The contexts of this world are short.
CONSTANT, REQUEST = KeyBias(distances=(4, 128)), KeyBias(form="request")
TRIED: tuple[KeyEditing, ...] = (
    *(Seka(gain=g) for g in GAINS),
    *(method.with_strength(b) for method in (CONSTANT, KeyBias(form="mean"), REQUEST) for b in BIASES),
)
#: On subspaces of differences, of keys and of values; the paper's shares of gain.
TRIED_PRISM = tuple(Prism(gain=g, gain_value=v * g) for v in (0.0, 0.25) for g in PRISM_GAINS)


def others(bias: float, gain: float) -> tuple[list[Variant], list[Variant]]:
    """Lines of key bias, and those of PRISM, which needs a bank of its own."""
    constant, request = CONSTANT.with_strength(bias), REQUEST.with_strength(bias)
    biases = [
        Variant(f"key bias, constant, {bias:g} nats", (constant,)),
        Variant(f"key bias, request, {bias:g} nats", (request,)),
        Variant("key bias, request, on a wrong passage", (request,), "wrong", ("conflict",)),
    ]
    return biases, [
        Variant(f"PRISM, keys, gain {gain:g}", (Prism(gain=gain),)),
        Variant(f"PRISM, keys and values, gain {gain:g}", (Prism(gain=gain, gain_value=0.25 * gain),)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--bank", type=Path, help="save the learned bank here")
    parser.add_argument("--gain", type=float, default=0.5)
    parser.add_argument("--bias", type=float, default=2.0, help="of key bias")
    parser.add_argument("--prism", type=float, default=0.5, help="gain of PRISM")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--energy", type=float, default=0.97)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(2)
    split: Split = "held-out" if args.held_out else "development"
    model = SteeredModel.from_pretrained(str(args.model))
    bank = learn_bank(model, demo_triples(), energy=args.energy, suggested_gain=args.gain)
    differences = learn_bank(model, demo_triples(), energy=args.energy, difference=True, values=True)
    prism = SteeredModel(model.hf_model, model.tokenizer, bank=differences, name=str(args.model))
    model = SteeredModel(model.hf_model, model.tokenizer, bank=bank, name=str(args.model))
    print(bank, "ranks", bank.ranks.tolist(), "gap", [[round(g, 2) for g in row] for row in bank.gap.tolist()])
    figures: dict[str, object] = {"split": split, "n": args.n, "gain": args.gain, "gates": {}, "rows": {}}
    for gate in gates(model, split, args.n):
        print("pass" if gate.passed else "FAIL", gate.name, gate.rate)
        figures["gates"][gate.name] = [gate.rate.hits, gate.rate.n]  # type: ignore[index]
    if not args.held_out:
        kinds: tuple[Kind, ...] = ("conflict", "disagree", "novel", "irrelevant")
        trials = {kind: make_trials(kind, args.n, split) for kind in kinds}
        for steered, method in [*((model, m) for m in TRIED), *((prism, m) for m in TRIED_PRISM)]:
            rates = {k: share(ask(steered, some, method), [t.answer for t in some]) for k, some in trials.items()}
            print(f"{method!r:40}", "  ".join(f"{kind} {rate}" for kind, rate in rates.items()))
    biases, prisms = others(args.bias, args.prism)
    rows = evaluate(model, [*variants(model, args.gain), *biases], n=args.n, split=split)
    rows += evaluate(prism, prisms, n=args.n, split=split)
    for row in rows:
        print(f"{row.name:40}", "  ".join(f"{kind} {rate}" for kind, rate in row.rates.items()))
        figures["rows"][row.name] = {k: [r.hits, r.n] for k, r in row.rates.items()}  # type: ignore[index]
    for row in rows:
        if row is not rows[1] and "conflict" in row.rates and len(row.outcomes["conflict"]) == args.n:
            print(f"McNemar, conflict, {rows[1].name} against {row.name}: p = {against(rows[1], row, 'conflict'):.2g}")
    if args.bank:
        bank.save(args.bank)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
