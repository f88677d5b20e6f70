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
import tempfile
from itertools import combinations
from pathlib import Path

from IPython.display import Image

from seka_rag import AdaSeka, SteeredModel, learn_experts, task_triples
from seka_rag.bench.tasks import TASKS
from seka_rag.bench.tasks.base import Source
from seka_rag.views import draw_routing

TRIPLES = 60  # size
ROUNDS = 8  # size
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
# (*conflict*), the same among ten passages (*needle*), an edited fact in
# one line (*statement*), a biography, and a proverb that is to end otherwise.

# %%
source = Source(model, Path(tempfile.mkdtemp()), limit=ROUNDS)
items = TASKS["several"].items(source)
steered = SteeredModel(model.hf_model, model.tokenizer, bank=experts)
weights = {}
for kind in ("conflict", "needle", "statement", "biography", "proverb"):
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
# Everything in one run, by first tokens: AdaSEKA, mixing and nearly choosing
# (temperature 0.1), with the paper's score, with equal weights and with the
# choices dealt out at random; each expert alone; the one bank that ships with
# the model, as it was calibrated. It takes about half an hour of one core, so
# it was run before, with experts of 120 triples each:
#
# ```sh
# seka-rag learn --model smollm2 --experts lookup,biography,needle,instruction \
#   --n 120 --best 0.2 --energy 0.99 --out experts
# seka-rag bench several --model smollm2 --bank experts --limit 60 --out several
# ```

# %%
results = Path("../../docs/benchmarks/data/experts/results.json")
rows = json.loads(results.read_text())
curves(rows, "all.first", "irrelevant.kl", levels=[0.3])
