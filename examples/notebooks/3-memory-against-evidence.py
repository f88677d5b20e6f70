# %% [markdown]
# # Memory against evidence
#
# A model that knows that Canberra is the capital of Australia reads a passage
# that says Perth. Should it follow? In a RAG chain it should: the passages
# are newer than the weights. Steering makes it follow, and the stronger it
# is, the more it also does where it should do nothing. This notebook draws
# that trade-off.

# %%
from seka_rag import Prompt, SteeredModel
from seka_rag.bench.closed_book import known_facts
from seka_rag.bench.rates import Rate
from seka_rag.questions.facts import load_facts
from seka_rag.questions.kinds import questions
from seka_rag.views import Point, chart, show, strengths

ROUNDS = 4  # size
TOKENS = 24  # size
model = SteeredModel.from_pretrained("smollm2")
method = model.usual_steering
print(method)

# %% [markdown]
# ## Questions
#
# About facts that the model knows: without passages it answers them rightly,
# in two of three wordings. Of the development side, since nothing that is
# looked at here should be used to report figures.

# %%
facts = [fact for fact in load_facts() if fact.split == "development"][
    : 20 * ROUNDS
]
known = known_facts(model, facts)
print(len(known), "of", len(facts), "facts are known")
TEMPLATE = "Context:\n{context}\n\nQuestion: {question}\nAnswer:"


def message(record):
    context = Prompt.join(record.marked, "\n\n")
    return [
        {
            "role": "user",
            "content": Prompt.format(
                TEMPLATE, {"context": context, "question": record.question}
            ),
        }
    ]


def answers(records, steering):
    prompts = [model.tokenize_chat(message(record)) for record in records]
    found = []
    for start in range(0, len(prompts), 8):
        found += model.generate(
            prompts[start : start + 8], steering=steering, max_new_tokens=TOKENS
        )
    return found


# %% [markdown]
# ## One conflict
#
# The first one, and its answer at multiples of the strength that the bank
# suggests:

# %%
n = 3 * ROUNDS
records = {
    kind: questions(kind, "development", n, facts=known, passages=(3, 3))
    for kind in ("conflict", "irrelevant")
}
first = records["conflict"][0]
print(
    "memory says",
    first.remembered[0],
    "and the passage",
    first.gold_context_answer[0],
)
show(
    model.chat(message(first), max_new_tokens=TOKENS),
    message(first),
    plain=model.chat(message(first), steering=None, max_new_tokens=TOKENS),
    title=first.question,
)

# %%
strengths(
    {
        s: model.chat(
            message(first),
            steering=method.with_strength(s),
            max_new_tokens=TOKENS,
        )
        for s in (method.strength * factor for factor in (0, 0.5, 1, 2))
    },
    right=first.is_right,
)

# %% [markdown]
# ## Strength against harm
#
# *conflict*: the highlighted passage contradicts memory; right is what it
# says. *irrelevant*: no passage bears on the question and some sentence is
# highlighted; right is what memory says. There are few questions, to be quick:
# see how wide the intervals are.

# %%
STRENGTHS = tuple(method.strength * factor for factor in (0, 0.5, 1))
rates = {}
for strength in STRENGTHS:
    for kind, some in records.items():
        texts = answers(
            some, method.with_strength(strength) if strength else None
        )
        rates[kind, strength] = Rate.of(
            [r.is_right(a.text) for r, a in zip(some, texts, strict=True)]
        )
    print(
        f"strength {strength:g}",
        *(f"{kind} {rates[kind, strength]}" for kind in records),
        sep="   ",
    )
print("questions of each kind:", n)


# %%
def point(x, rate, name=""):
    low, high = rate.interval
    return Point(x, rate.value, low, high, name)


chart(
    {kind: [point(s, rates[kind, s]) for s in STRENGTHS] for kind in records},
    x="strength",
    y="share of right answers, 95% intervals",
    ticks=STRENGTHS,
    y_range=(-0.02, 1.02),
)

# %% [markdown]
# Highlighting something false has a price, too: *When not to steer* counts it.
#
# ## How the strength was chosen
#
# `seka-rag calibrate` tries methods, heads and strengths and keeps what it
# found in the bank. Following is measured on conflicts, harm as the
# disturbance KL(plain, steered) by unrelated highlights. The bank of
# `smollm2` remembers:

# %%
calibration = model.bank.calibration
lines = {}
for trial in calibration.trials:
    name = trial.steering["method"] if trial.steering else "plain"
    lines.setdefault(name, []).append(
        point(
            trial.disturbance,
            Rate(round(trial.following * trial.examples), trial.examples),
        )
    )
chart(
    lines,
    x="disturbance: KL(plain, steered) in nats",
    y="conflicts that follow",
    title=f"{calibration.trials[0].examples} development examples of each "
    "kind; dotted: the budget",
    levels=[calibration.budget],
)

# %% [markdown]
# That is the search, by the first token of an answer. The best of each method
# then wrote answers, and the answers decided: the mean over four kinds of
# questions of how many more are right than without steering, unless something
# is harmed.

# %%
for one in calibration.answers:
    name = one.steering["method"] if one.steering else "plain"
    right = "  ".join(f"{k.kind} {k.right}/{k.n}" for k in one.kinds)
    print(
        f"{name:<12}{'chosen' if one.chosen else '':<7}{one.gain:+.3f}", right
    )

# %% [markdown]
# The setting was chosen by these same questions, so its figures are a little
# too good. The README has figures of held-out questions.
