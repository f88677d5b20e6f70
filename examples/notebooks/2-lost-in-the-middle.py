# %% [markdown]
# # Lost in the middle
#
# The longer a prompt, the less a model attends to the one passage that
# answers. Here that passage tells a detail of something invented, so memory
# cannot help, and it stands at the beginning, in the middle or at the end of
# pages of Python's language reference. Three ways of asking:
#
# * **plain**: the model as it is;
# * **evidence**: the default highlighter marks the sentences that share the
#   question's words, wherever they stand;
# * **everything**: all passages are highlighted.

# %%
from pydoc_data.topics import topics

from seka_rag import AllPassages, Passage, Rag, Sentences, SteeredModel
from seka_rag.bench.rates import Rate
from seka_rag.questions.kinds import questions
from seka_rag.retrieval.documents import Document
from seka_rag.retrieval.split import split
from seka_rag.views import Point, chart, show

THOUSANDS = 8  # size
ROUNDS = 3  # size
TOKENS = 16  # size
model = SteeredModel.from_pretrained("smollm2")
filler = split([Document(text, name) for name, text in sorted(topics.items())])
costs = [len(model.tokenizer(p.text)["input_ids"]) for p in filler]

# %% [markdown]
# A prompt of a given length: as many passages of the reference as fit, and
# the passage that answers among them.

# %%
PLACES = {"beginning": 0.0, "middle": 0.5, "end": 1.0}


def passages(record, tokens, place, start):
    gold = record.highlights[0].passage
    chosen, room = [], tokens - 250
    for i in range(start, start + len(filler)):
        i %= len(filler)
        if (room := room - costs[i]) < 0:
            break
        chosen.append(filler[i])
    chosen.insert(
        round(PLACES[place] * len(chosen)),
        Passage(record.passages[gold], source="the passage that answers"),
    )
    return chosen


WAYS = {
    "plain": (Sentences(), None),
    "evidence": (Sentences(), "auto"),
    "everything": (AllPassages(), "auto"),
}


def rag(given, way):
    return Rag(model, lambda question: given, highlighter=WAYS[way][0])


# %% [markdown]
# Short prompts are answered together, in one batch; the long ones one by one.
# A prompt of 8,000 tokens costs far more time than eight of 1,000, so there are
# fewer of the long ones, and everything is highlighted up to 4,000 tokens only.
# The intervals say how much that leaves open.

# %%
FEWER = {1000: 0, 2000: 0, 4000: 2, 8000: 2}  # rounds, than there are
COUNTS = {
    tokens: len(PLACES) * max(1, ROUNDS - fewer)
    for tokens, fewer in FEWER.items()
    if tokens <= 1000 * THOUSANDS
}
records = questions("novel", "development", max(COUNTS.values()))
outcomes, longest = [], {}
for tokens, count in COUNTS.items():
    asked = []
    for i, record in enumerate(records[:count]):
        place = list(PLACES)[i % len(PLACES)]
        asked.append((record, place, passages(record, tokens, place, 37 * i)))
    size = max(1, 6000 // tokens)  # of a batch
    for way, (_, steering) in WAYS.items():
        if way == "everything" and tokens > 4000:
            continue
        prompts = [
            model.tokenize_chat(
                rag(given, way).prepare(record.question).messages
            )
            for record, _, given in asked
        ]
        longest[tokens] = max(map(len, prompts))
        answers = []
        for k in range(0, count, size):
            answers += model.generate(
                prompts[k : k + size], steering=steering, max_new_tokens=TOKENS
            )
        for (record, place, _), answer in zip(asked, answers):
            right = record.is_right(answer.text)
            outcomes.append((tokens, place, way, right))
for tokens, count in COUNTS.items():
    print(f"{tokens} tokens (at most {longest[tokens]}): {count} questions")

# %% [markdown]
# ## By length

# %%


def rate(way, lengths, place=None):
    return Rate.of(
        [
            right
            for t, p, w, right in outcomes
            if w == way and t in lengths and place in (None, p)
        ]
    )


def curve(way):
    found = {t: rate(way, [t]) for t in COUNTS}
    return [Point(t, r.value, *r.interval) for t, r in found.items() if r.n]


chart(
    {way: curve(way) for way in WAYS},
    x="tokens of the prompt",
    y="share of right answers, 95% intervals",
    ticks=list(COUNTS),
    y_range=(-0.02, 1.02),
)

# %% [markdown]
# ## By position
#
# Right answers of those asked, by length and over all lengths:

# %%
for way in WAYS:
    for tokens in COUNTS:
        some = {place: rate(way, [tokens], place) for place in PLACES}
        if all(r.n for r in some.values()):
            print(
                way.ljust(10),
                f"{tokens} tokens".ljust(11),
                *(f"{place} {r.hits} of {r.n}" for place, r in some.items()),
                sep="  ",
            )

# %%
SHORT = [tokens for tokens in COUNTS if tokens <= 4000]
for place in PLACES:
    for way in WAYS:
        print(place.ljust(20), way.ljust(10), rate(way, COUNTS, place))
for way in WAYS:
    print("up to 4000 tokens".ljust(20), way.ljust(10), rate(way, SHORT))
for way in ("plain", "evidence"):
    print("all lengths".ljust(20), way.ljust(10), rate(way, COUNTS))

# %% [markdown]
# ## One of them

# %%
given = passages(records[0], 1000, "middle", 0)
plain, steered = (
    rag(given, way).answer(
        records[0].question, steering=WAYS[way][1], max_new_tokens=TOKENS
    )
    for way in ("plain", "evidence")
)
show(steered, plain=plain)

# %% [markdown]
# With so few questions the differences between lengths say nothing. Up to
# 4,000 tokens, 0.238 are right as it is, 0.381 with the evidence highlighted
# and 0.095 with everything highlighted. All these intervals overlap. (This
# run is of the day before the highlighter began to look at names.)
# Highlighting is a choice: what is raised everywhere is raised nowhere, and
# the edit of a whole prompt only disturbs. For numbers that decide something,
# run `seka-rag bench lost-in-the-middle`.
