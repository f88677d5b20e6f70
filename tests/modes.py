"""Ways of running a model, one line each, and how a family is run in each of them: for the tests and the table in the docs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from tiny import random_bank, tiny_model
from transformers import ContinuousBatchingConfig, DynamicCache, GenerationConfig, QuantizedCache, StaticCache

from seka_rag import Seka, steer

#: Families that stand for the kinds of attention: full, sliding, both, fused projections, and layers without keys.
SHOWN = ("llama", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "gpt_neox", "lfm2")
SETTINGS = {"mistral": {"sliding_window": 8}}  # the prompt is three times as long
IDS = torch.arange(30, 54)[None]
MASK = torch.zeros(1, 24)
MASK[0, [0, 3, 4, 17, 22]] = torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0])
STRONG, STILL = Seka(gain=2.0), Seka(gain=0.0)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "modes.md"


@cache
def model_and_bank(family):
    model = tiny_model(family, **SETTINGS.get(family, {}))
    return model, random_bank(model)


def _quantized(backend, **options):
    return lambda model: {"past_key_values": QuantizedCache(backend, model.config, **options)}


#: Mode -> what is passed to ``generate``, from the model.
MODES = {
    "greedy": lambda model: {},
    "sampling, several sequences": lambda model: {"do_sample": True, "num_return_sequences": 3},
    "beam search": lambda model: {"num_beams": 3, "num_return_sequences": 3},
    "beam sampling": lambda model: {"num_beams": 2, "do_sample": True},
    "constrained tokens, beams": lambda model: {
        "num_beams": 2,
        "prefix_allowed_tokens_fn": lambda b, x: [*range(40, 90)],
    },
    "chunked prefill": lambda model: {"prefill_chunk_size": 5},
    "no cache": lambda model: {"use_cache": False},
    "dynamic cache, given": lambda model: {"past_key_values": DynamicCache(config=model.config)},
    "static cache": lambda model: {"cache_implementation": "static"},
    "static cache, chunked prefill": lambda model: {"cache_implementation": "static", "prefill_chunk_size": 7},
    "static cache, given": lambda model: {"past_key_values": StaticCache(config=model.config, max_cache_len=64)},
    "quantised cache (quanto)": _quantized("quanto", nbits=4, q_group_size=16, residual_length=64),
    "quantised cache (fp8)": _quantized("fp8"),
    "prompt lookup": lambda model: {"prompt_lookup_num_tokens": 3},
    "assisted by another model": lambda model: {"assistant_model": model_and_bank("qwen3")[0]},
    "assisted by itself": lambda model: {"assistant_model": model},
    "group beam search": lambda model: {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "contrastive search": lambda model: {"penalty_alpha": 0.6, "top_k": 4},
}
CONTINUOUS = "continuous batching"
#: What transformers itself refuses, by the beginning of its message; the table shows the note.
REFUSALS = {
    "`QuantizedCache` is only supported": "no: full attention only",
    "Group Beam Search requires": "no: moved to the Hub",
    "Contrastive Search requires": "no: moved to the Hub",
    "Invalid layer type": "no: attention only",
}


def first_scores(family, mode, *, mask=MASK, ids=IDS, method=STRONG):
    """The scores of the first new token ``[copies, V]`` and the sequences, generated in a mode, steered."""
    model, bank = model_and_bank(family)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, **MODES[mode](model)}
    with torch.no_grad(), steer(model, bank, mask, method) as report:
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), output_logits=True, return_dict_in_generate=True, **options
        )
    assert report.tokens_edited == report.tokens_marked == len(mask.nonzero())
    return out.logits[0], out.sequences


def _continuous(family, method):
    """Continuous batching gives tokens and their log-probabilities; prompts of 24 tokens come in pieces of 16."""
    model, bank = model_and_bank(family)
    settings = {"page_size": 8, "num_blocks": 64, "max_batch_tokens": 16, "allow_block_sharing": False}

    def run(method):
        with steer(model, bank, MASK, method) as report:
            outputs = model.generate_batch(
                IDS.tolist(),
                GenerationConfig(max_new_tokens=4, do_sample=False, eos_token_id=-1),
                ContinuousBatchingConfig(return_logprobs=True, **settings),
            )
        assert report.tokens_edited == (0 if method == STILL else len(MASK.nonzero()))
        (output,) = outputs.values()
        wanted = wanted_scores(family, method)[0].float().log_softmax(-1).max()
        return output.generated_tokens, abs(output.logprobs[0] - float(wanted))

    tokens, off = run(method)
    assert tokens == first_scores(family, "greedy", method=method)[1][0, IDS.shape[1] :].tolist(), family
    if getattr(model.config, "attn_logit_softcapping", None) and run(STILL)[1] > 2e-4:
        return "no: soft-capping left out"
    assert off < 2e-4, family
    return "yes"


@cache
def wanted_scores(family, method=STRONG):
    """The scores of the first new token by one plain forward pass over the prompt, without any cache."""
    model, bank = model_and_bank(family)
    with torch.no_grad(), steer(model, bank, MASK, method):
        return model(IDS, use_cache=False).logits[:, -1]


def outcome(family, mode, method=STRONG):
    """ "yes", or why transformers does not run this mode; raises if the mode runs and is not steered as it should be."""
    try:
        if mode == CONTINUOUS:
            return _continuous(family, method)
        scores, sequences = first_scores(family, mode, method=method)
    except ValueError as error:
        notes = [note for begin, note in REFUSALS.items() if begin in str(error)]
        if not notes:
            raise
        return notes[0]
    wanted = wanted_scores(family, method)
    assert torch.allclose(scores, wanted.expand_as(scores), rtol=1e-3, atol=2e-4), (family, mode)
    assert not torch.allclose(wanted, wanted_scores(family, STILL), rtol=1e-3, atol=2e-3), (family, mode)
    if not any(word in mode for word in ("sampl", "beam", "quantised")):  # four bits may choose another second token
        assert torch.equal(sequences, first_scores(family, "greedy", method=method)[1]), (family, mode)
    return "yes"


def table():
    """The page's table, from what happens."""
    lines = ["| | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    lines += [
        f"| {mode} | " + " | ".join(outcome(family, mode) for family in SHOWN) + " |" for mode in (*MODES, CONTINUOUS)
    ]
    return "\n".join(lines) + "\n"


def main():
    """Write the table into the page: ``python tests/modes.py``."""
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")


def replaced(page, new):
    """The page with another table."""
    begin, end = "<!-- table: python tests/modes.py -->\n", "<!-- end of table -->"
    before, rest = page.split(begin)
    return before + begin + new + end + rest.split(end)[1]


if __name__ == "__main__":
    main()
