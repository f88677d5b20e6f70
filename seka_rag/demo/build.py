"""Learn the demo's bank, check the gates and measure: ``python -m seka_rag.demo.build MODEL_FOLDER``.

Every choice (gates, gain) is made on the development split; ``--held-out`` reports the held-out one, once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from seka_rag.demo.evaluate import evaluate, gates, variants
from seka_rag.demo.trials import Kind, Split, ask, demo_triples, make_trials
from seka_rag.learning.learn import learn_bank
from seka_rag.metrics import Rate
from seka_rag.model import SteeredModel
from seka_rag.steering.seka import Seka

GAINS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--bank", type=Path, help="save the learned bank here")
    parser.add_argument("--gain", type=float, default=0.5)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--energy", type=float, default=0.97)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(2)
    split: Split = "held-out" if args.held_out else "development"
    model = SteeredModel.from_pretrained(str(args.model))
    bank = learn_bank(model, demo_triples(), energy=args.energy, suggested_gain=args.gain)
    model = SteeredModel(model.hf_model, model.tokenizer, bank=bank, name=str(args.model))
    print(bank, "ranks", bank.ranks.tolist(), "gap", [[round(g, 2) for g in row] for row in bank.gap.tolist()])
    figures: dict[str, object] = {"split": split, "n": args.n, "gain": args.gain, "gates": {}, "rows": {}}
    for gate in gates(model, split, args.n):
        print("pass" if gate.passed else "FAIL", gate.name, gate.rate)
        figures["gates"][gate.name] = [gate.rate.hits, gate.rate.n]  # type: ignore[index]
    if not args.held_out:
        kinds: tuple[Kind, ...] = ("conflict", "disagree", "irrelevant")
        trials = {kind: make_trials(kind, args.n, split) for kind in kinds}
        for gain in GAINS:
            answers = {kind: ask(model, t, Seka(gain=gain)) for kind, t in trials.items()}
            rates = {k: Rate.of([a == t.answer for a, t in zip(answers[k], trials[k], strict=True)]) for k in trials}
            print(f"gain {gain:4}", "  ".join(f"{kind} {rate}" for kind, rate in rates.items()))
    for row in evaluate(model, variants(model, args.gain), n=args.n, split=split):
        print(f"{row.name:40}", "  ".join(f"{kind} {rate}" for kind, rate in row.rates.items()))
        figures["rows"][row.name] = {k: [r.hits, r.n] for k, r in row.rates.items()}  # type: ignore[index]
    if args.bank:
        bank.save(args.bank)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
