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
from seka_rag.bench.methods import choose
from seka_rag.bench.rows import Table
from seka_rag.bench.runner import Subject, run
from seka_rag.bench.tasks import TASKS
from seka_rag.bench.tasks.base import Source
from seka_rag.views import draw_routing

TRIPLES = 60  # size
FACTS = 60  # size
SHOWN = 6  # size
EXPERTS = ["lookup", "biography", "needle", "instruction"]
folder = Path(tempfile.mkdtemp())
model = SteeredModel.from_pretrained("smollm2")

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
print(experts)

# %% [markdown]
# How much do two of them have in common? Of the five directions that AdaSEKA
# uses of each, the share that lies within those of the other, over the heads
# that both have. Random directions in a space of 64 would have 5/64 of it in
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
items = TASKS["several"].items(Source(model, folder, limit=FACTS))
steered = SteeredModel(
    model.hf_model, model.tokenizer, bank=experts, name="smollm2"
)
weights = {}
for kind in ("conflict", "statement", "biography", "proverb"):
    some = [item for item in items if item.groups[0] == kind][:SHOWN]
    answers = steered.generate(
        [item.prompt(item.gold) for item in some],
        steering=AdaSeka(temperature=0.1),
        max_new_tokens=1,
    )
    chosen = [answer.report.experts[0] for answer in answers]
    weights[f"{kind} (mean of {len(some)})"] = {
        name: sum(row[name] for row in chosen) / len(chosen) for name in EXPERTS
    }
picture = draw_routing(
    list(weights.values()), list(weights), folder / "choices.png"
)
Image(str(picture), width=640)

# %% [markdown]
# ## Did it pay?
#
# By first tokens, on the shorter kinds: statements and proverbs, and the
# disturbance where nothing bears on the question. At temperature 0.1 a query
# nearly chooses one expert a head (`adaseka-choice`). Beside it: the same
# choices dealt out at random among the experts, all experts with equal
# weights, each expert alone, all at the same sum of weights; and the bank
# that ships with the model, as it was calibrated.

# %%
FAMILIES = ["adaseka-choice", "adaseka-random", "adaseka-uniform"]
USUAL = {"adaseka-uniform": 0.5, "calibrated": model.usual_steering.strength}
variants = [
    v
    for v in choose([*FAMILIES, "expert", "calibrated"], experts)
    if v.strength in (None, USUAL.get(v.method, 2.0))
]
asked = [i for i in items if i.groups[0] in ("statement", "proverb")]
asked += [i for i in items if i.groups[0] == "irrelevant"][: FACTS // 4 + 1]
journal = run("several", Subject(steered, folder), asked, variants)
table = Table("several", "smollm2", asked, variants, journal)
for variant in variants:
    row = table.row(variant, "all.first")
    print(
        variant.method.ljust(20),
        f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]",
        *(
            f"{kind} {table.value(variant, f'{kind}.first'):.2f}"
            for kind in ("statement", "proverb")
        ),
        f"disturbs {table.value(variant, 'irrelevant.kl'):.2f} nats",
        sep="   ",
    )
print(row.n, "questions")

# %% [markdown]
# In pairs on the same questions, with the exact McNemar test:

# %%
choice = next(v for v in variants if v.method == "adaseka-choice")
for variant in variants:
    if variant is not choice:
        pair = table.compare("all.first", choice, variant)
        alone = f"{pair.only_first}, {variant.method} {pair.only_second}"
        print(f"choice right alone {alone}".ljust(48), f"p = {pair.p:.2g}")

# %% [markdown]
# Routing does not pay here. The experts differ: *needle* alone is right in
# 0.55, *instruction* in 0.18. But prompts do not choose the expert of their
# kind, as the picture shows: biographies choose *instruction*. The choice is
# right in 0.35, no more than equal weights or its choices dealt out at
# random, and less than the best expert alone or the one calibrated bank
# (0.63). Steering as such helps, with any of them but *instruction*.
#
# Experts of more triples and conflicts are counted on the page about experts;
# they give the same picture.
