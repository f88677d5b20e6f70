# %% [markdown]
# # AdaSEKA: a choice of experts
#
# One bank is learned from one kind of task. AdaSEKA takes several, *experts*,
# and mixes them for each prompt by the query of its last token:
#
#     k' = k + g  sum_m alpha_m U_m U_m^T k
#
# Three questions: do the experts differ, does a prompt choose the one of its
# kind, and do answers follow the evidence more than with one bank?

# %%
import json
import tempfile
from itertools import combinations
from pathlib import Path

from IPython.display import Image

from seka_rag import AdaSeka, SteeredModel, learn_experts, task_triples
from seka_rag.bench.tasks import TASKS
from seka_rag.bench.tasks.base import Source
from seka_rag.views import curves, draw_routing

TRIPLES = 32  # size
ROUNDS = 6  # size
EXPERTS = ["lookup", "biography", "needle", "instruction"]
model = SteeredModel.from_pretrained("smollm2", dtype="bfloat16")

# %% [markdown]
# ## Four experts
#
# *lookup*: a fact in a short text. *biography*: what a biography describes
# and does not name. *needle*: one fact among a dozen others. *instruction*: an
# order beside a text. Each expert has a fifth of the heads, those in which
# relevant and irrelevant keys differ most.

# %%
triples = task_triples(EXPERTS, n=max(8, TRIPLES))
experts = learn_experts(model, triples, energy=0.99, best=0.2)
experts.save(folder := Path(tempfile.mkdtemp()) / "experts")
print(experts)

# %% [markdown]
# How much do two of them have in common? Of the five directions that AdaSEKA
# uses of each, the share that lies within those of the other, over the heads
# that both have. Random directions in a space of 64 would have 5/64 = 0.08 in
# common.


# %%
def in_common(a, b, columns=5):
    shares = []
    for layer in set(a.positive) & set(b.positive):
        both = (a.ranks[layer] > 0) & (b.ranks[layer] > 0)
        u, v = (
            bank.positive[layer][both][..., :columns].float() for bank in (a, b)
        )
        shares += ((u.mT @ v) ** 2).sum((1, 2)).div(columns).tolist()
    return sum(shares) / len(shares), len(shares)


for one, other in combinations(EXPERTS, 2):
    share, heads = in_common(experts[one], experts[other])
    print(f"{one:10} {other:11} {share:.2f} in common, of {heads} heads")

# %% [markdown]
# ## Which are chosen
#
# Questions of the development side: a passage that contradicts memory
# (*conflict*), an edited fact in one line (*statement*), a biography, and a
# proverb that is to end otherwise.

# %%
source = Source(model, Path(tempfile.mkdtemp()), limit=ROUNDS)
items = TASKS["several"].items(source)
steered = SteeredModel(model.hf_model, model.tokenizer, bank=experts)
weights = {}
for kind in ("conflict", "statement", "biography", "proverb"):
    some = [item for item in items if item.groups[0] == kind]
    answers = steered.generate(
        [item.prompt(item.gold) for item in some],
        steering=AdaSeka(gain=0.25),
        max_new_tokens=1,
    )
    chosen = [answer.report.experts[0] for answer in answers]
    weights[kind] = {
        name: sum(row[name] for row in chosen) / len(chosen) for name in EXPERTS
    }
picture = draw_routing(
    list(weights.values()),
    [f"{kind} (mean of {ROUNDS})" for kind in weights],
    folder / "choices.png",
)
Image(str(picture), width=640)

# %% [markdown]
# ## Did it pay?
#
# By first tokens, all in one run: AdaSEKA mixing (`adaseka`) and nearly
# choosing one expert a head (`-choice`, temperature 0.1), with equal weights,
# with its choices dealt out at random, and with the paper's score; each
# expert alone; and the bank that ships with the model, as it was calibrated.
# That takes ten minutes of a core, so it was run before:
#
# ```sh
# seka-rag learn --model smollm2 --out experts --n 120 --best 0.2 \
#   --energy 0.99 --experts lookup,biography,needle,instruction
# seka-rag bench several --model smollm2 --bank experts --limit 60 --methods \
#   adaseka,adaseka-choice,adaseka-uniform,adaseka-random,adaseka-signed,expert,calibrated
# ```

# %%
data = Path("../../docs/benchmarks/data/experts")
rows = json.loads((data / "results.json").read_text())
curves(rows, "all.first", "irrelevant.kl", levels=[0.3])

# %% [markdown]
# By kind of task, at the strongest setting whose disturbance is at most 0.3:

# %%
KINDS = ("all", "conflict", "statement", "biography", "proverb")
figures = {}
for row in rows:
    name = (
        row["method"],
        row["settings"].get("gain", row["settings"].get("bias")),
    )
    figures.setdefault(name, {})[row["metric"]] = row
best = {}
for (method, strength), row in figures.items():
    if row["irrelevant.kl"]["value"] <= 0.3:
        best[method] = strength
for method, strength in best.items():
    row = figures[method, strength]
    print(
        f"{method} {strength or ''}".ljust(24),
        *(f"{kind} {row[f'{kind}.first']['value']:.2f}" for kind in KINDS),
        f"kl {row['irrelevant.kl']['value']:.2f}",
        sep="  ",
    )
print({kind: row[f"{kind}.first"]["n"] for kind in KINDS}, "questions")

# %% [markdown]
# In pairs on the same questions, with the exact McNemar test:

# %%
for pair in json.loads((data / "comparisons.json").read_text()):
    names = [pair[side].split(" {")[0] for side in ("first", "second")]
    if pair["metric"] == "all.first" and names[0].startswith("adaseka"):
        print(
            f"{names[0]} right alone {pair['only_first']}, {names[1]} {pair['only_second']}",
            f"p = {pair['p']:.2g}",
            sep="   ",
        )
