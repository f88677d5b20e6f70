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
model = SteeredModel.from_pretrained("smollm2", dtype="bfloat16")
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


def ask(record, given, way):
    highlighter, steering = WAYS[way]
    rag = Rag(model, lambda question: given, highlighter=highlighter)
    return rag.answer(record.question, steering=steering, max_new_tokens=TOKENS)


# %% [markdown]
# A long prompt costs as much time as several short ones, so there are fewer
# of them: the intervals say how much that leaves open.

# %%
FEWER = {1000: 0, 2000: 0, 4000: 1, 8000: 2}  # rounds, than there are
COUNTS = {
    tokens: len(PLACES) * max(1, ROUNDS - fewer)
    for tokens, fewer in FEWER.items()
    if tokens <= 1000 * THOUSANDS
}
records = questions("novel", "development", max(COUNTS.values()))
outcomes = []
for tokens, count in COUNTS.items():
    for i, record in enumerate(records[:count]):
        place = list(PLACES)[i % len(PLACES)]
        given = passages(record, tokens, place, 37 * i)
        for way in WAYS:
            answer = ask(record, given, way)
            outcomes.append(
                (
                    tokens,
                    place,
                    way,
                    record.is_right(answer.text),
                    answer.generation.prompt_tokens,
                )
            )
for tokens, count in COUNTS.items():
    longest = max(o[4] for o in outcomes if o[0] == tokens)
    print(f"{tokens} tokens (at most {longest}): {count} questions in each way")

# %% [markdown]
# ## By length

# %%


def rate(tokens=None, place=None, way=None):
    return Rate.of(
        [
            o[3]
            for o in outcomes
            if o[0] == (tokens or o[0])
            and o[1] == (place or o[1])
            and o[2] == way
        ]
    )


def point(x, found):
    low, high = found.interval
    return Point(x, found.value, low, high)


chart(
    {way: [point(t, rate(tokens=t, way=way)) for t in COUNTS] for way in WAYS},
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
        some = {place: rate(tokens, place, way) for place in PLACES}
        print(
            way.ljust(10),
            f"{tokens} tokens".ljust(11),
            *(f"{place} {r.hits} of {r.n}" for place, r in some.items()),
            sep="  ",
        )
for place in PLACES:
    print(
        place.ljust(10),
        *(f"{way} {rate(place=place, way=way)}" for way in WAYS),
        sep="  ",
    )
print("all".ljust(10), *(f"{way} {rate(way=way)}" for way in WAYS), sep="  ")

# %% [markdown]
# ## One of them

# %%
given = passages(records[0], 1000, "middle", 0)
show(ask(records[0], given, "evidence"), plain=ask(records[0], given, "plain"))

# %% [markdown]
# With so few questions the differences between lengths say nothing. Over all
# of them, 0.185 are right as it is, 0.333 with the evidence highlighted, and
# 0.037 with everything highlighted; the first two intervals overlap.
# Highlighting is a choice: what is raised everywhere is raised nowhere, and
# the edit of a whole prompt only disturbs. For numbers that decide something,
# run `seka-rag bench lost-in-the-middle`.
