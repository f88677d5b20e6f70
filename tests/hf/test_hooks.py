"""Positions are known from the cache, and nothing stays attached."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch
from transformers import DynamicCache

from seka_rag import Seka, steer
from seka_rag.errors import BankError, SettingError, SteeringError
from seka_rag.hf import taps
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import editing, recording
from seka_rag.hf.marks import Marks

IDS = torch.arange(30, 54)[None]
MASK = torch.zeros(1, 24, dtype=torch.bool)
MASK[0, [3, 4, 10, 11, 12]] = True


def attached(model):
    """What steering, or anything else, put on the modules."""
    own = sum("forward" in vars(m) for m in model.modules())
    return own + sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture
def bank(qwen3, make_bank):
    return make_bank(qwen3)


@pytest.fixture
def whole(qwen3, bank):
    with torch.no_grad(), steer(qwen3, bank, MASK, Seka(gain=1.0)):
        return qwen3(IDS).logits


@pytest.mark.parametrize("cuts", [[24], [4, 20], [11, 1, 12], [1] * 24, [5, 5, 5, 5, 4]])
def test_a_prompt_in_chunks_is_the_prompt_in_one_piece(qwen3, bank, whole, cuts):
    with torch.no_grad(), steer(qwen3, bank, MASK, Seka(gain=1.0)) as report:
        cache, logits = DynamicCache(), []
        for piece in IDS.split(cuts, dim=1):
            logits.append(qwen3(piece, past_key_values=cache).logits)
    assert torch.allclose(torch.cat(logits, 1), whole, atol=1e-4)
    assert report.tokens_edited == 5


def test_a_prefix_computed_outside_is_counted_and_its_highlights_are_missed_loudly(qwen3, bank, whole):
    with torch.no_grad():
        cache = DynamicCache()
        qwen3(IDS[:, :3], past_key_values=cache)  # before the first highlight
        with steer(qwen3, bank, MASK, Seka(gain=1.0)):
            rest = qwen3(IDS[:, 3:], past_key_values=cache).logits
        assert torch.allclose(rest, whole[:, 3:], atol=1e-4)
        cache = DynamicCache()
        qwen3(IDS[:, :6], past_key_values=cache)  # holds two highlights
        with pytest.raises(SteeringError, match="only 3 of 5 highlighted tokens"):
            with steer(qwen3, bank, MASK, Seka(gain=1.0)):
                qwen3(IDS[:, 6:], past_key_values=cache)


def test_decoding_is_not_edited(qwen3, bank):
    steps = []
    with torch.no_grad(), steer(qwen3, bank, MASK, Seka(gain=1.0)):
        cache = DynamicCache()
        qwen3(IDS, past_key_values=cache)
        with recording(find_key_sites(qwen3)) as keys:
            qwen3(torch.tensor([[33]]), past_key_values=cache)
            steps.append(keys[0])
    with torch.no_grad(), recording(find_key_sites(qwen3)) as keys:
        qwen3(torch.tensor([[33]]))
    assert torch.equal(steps[0], keys[0])


@pytest.mark.parametrize("mode", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}, {}])
def test_generate_edits_every_copy_of_a_row(qwen3, bank, mode):
    two, mask = torch.cat([IDS, IDS + 7]), torch.cat([MASK, ~MASK])
    mask[1, :20] = False
    with torch.no_grad(), steer(qwen3, bank, mask, Seka(gain=1.0)) as report:
        torch.manual_seed(0)
        out = qwen3.generate(two, max_new_tokens=4, output_logits=True, return_dict_in_generate=True, **mode)
    for row in range(2):
        with torch.no_grad(), steer(qwen3, bank, mask[row : row + 1], Seka(gain=1.0)):
            first = qwen3(two[row : row + 1]).logits[0, -1]
        times = len(out.logits[0]) // 2
        for copy in range(times):
            assert torch.allclose(out.logits[0][row * times + copy], first, atol=2e-4)
    assert report.tokens_edited == report.tokens_marked


def test_nothing_stays_attached(qwen3, bank):
    assert attached(qwen3) == 0
    with pytest.raises(ZeroDivisionError), steer(qwen3, bank, MASK, Seka(gain=1.0)):
        assert attached(qwen3) == 1  # the decoder; key sites only while a pass runs
        raise ZeroDivisionError
    assert attached(qwen3) == 0

    sites = find_key_sites(qwen3)
    broken = replace(sites, modules={**sites.modules, 2: None})  # attaching fails half-way
    edits = Seka(gain=1.0).edits(bank, find_key_sites(qwen3))
    with pytest.raises((AttributeError, TypeError)), editing(broken, Marks(MASK), edits):
        qwen3(IDS)
    assert attached(qwen3) == 0
    assert not taps._replaced


def test_an_edit_of_a_layer_without_keys_is_refused(qwen3, bank):
    sites, edits = find_key_sites(qwen3), Seka(gain=1.0).edits(bank, find_key_sites(qwen3))
    hybrid = replace(sites, modules={i: m for i, m in sites.modules.items() if i != 1})
    with pytest.raises(SteeringError, match=r"layers \[1\] keep no keys"), editing(hybrid, Marks(MASK), edits):
        pass


def test_no_forward_pass_inside_is_an_error(qwen3, bank):
    with pytest.raises(SteeringError, match="no forward pass"), steer(qwen3, bank, MASK, Seka(gain=1.0)):
        pass


def test_another_thread_is_not_steered_and_the_caller_is_told(qwen3, bank):
    results = []

    def run():
        with torch.no_grad():
            results.append(qwen3(IDS).logits)

    with torch.no_grad():
        plain = qwen3(IDS).logits
    with pytest.raises(SteeringError, match="thread that generates"), steer(qwen3, bank, MASK, Seka(gain=1.0)):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert torch.equal(results[0], plain)


def test_concurrent_calls_with_different_highlights_equal_their_single_runs(qwen3, bank):
    def run(i):
        mask = torch.zeros_like(MASK)
        mask[0, i % 20 : i % 20 + 3] = i % 5 > 0
        with torch.no_grad(), steer(qwen3, bank, mask, Seka(gain=0.2 * (i % 7))):
            return qwen3(IDS).logits

    alone = [run(i) for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, range(64)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert attached(qwen3) == 0


def test_rows_that_cannot_be_matched_are_refused(qwen3, bank):
    with pytest.raises(SteeringError, match="3 rows while steering a batch of 2"):
        with torch.no_grad(), steer(qwen3, bank, MASK.repeat(2, 1), Seka(gain=1.0)):
            qwen3(IDS.repeat(3, 1))


def test_bad_masks_are_refused(qwen3, bank):
    with pytest.raises(SteeringError, match=r"\[batch, tokens\]"):
        Marks(torch.ones(3))
    with pytest.raises(SteeringError, match="not finite"):
        Marks(torch.tensor([[float("nan")]]))
    with torch.no_grad(), steer(qwen3, bank, torch.zeros(1, 24), Seka(gain=1.0)) as report:
        qwen3(IDS)
    assert "nothing is highlighted" in report.warnings[0]


def test_a_bank_of_another_model_is_refused(qwen3, make_bank):
    from tiny import tiny_model

    other = make_bank(tiny_model("qwen3", num_hidden_layers=2))
    with pytest.raises(BankError, match=r"layers \(bank: 2, model: 3\)"):
        with steer(qwen3, other, MASK, Seka()):
            pass
    llama = make_bank(tiny_model("llama"))
    with pytest.raises(BankError, match=r"model_type \(bank: llama, model: qwen3\)"):
        with steer(qwen3, llama, MASK, Seka()):
            pass


def test_masks_that_mean_something_else(qwen3, bank):
    with pytest.raises(SteeringError, match="negative weights"):
        with steer(qwen3, bank, MASK * -0.5, Seka(gain=1.0)):
            pass
    with pytest.raises(SettingError, match="give a method"):
        with steer(qwen3, bank, MASK, "auto"):
            pass
    with pytest.raises(BankError, match="give a loaded bank"):
        with steer(qwen3, "my-bank", MASK, Seka()):
            pass


def test_a_mask_narrower_than_the_prompt_is_an_error(qwen3, bank):
    """As a mask without the padding in front, or without the token that begins the text."""
    padded = torch.nn.functional.pad(IDS, (5, 0), value=7)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    rows = torch.cat([IDS, IDS + 7])
    ways = [
        lambda: qwen3(padded),
        lambda: qwen3.generate(padded, **options),
        lambda: qwen3.generate(padded, cache_implementation="static", **options),
        lambda: qwen3.generate(padded, prefill_chunk_size=7, **options),  # 21 to 28 go beyond 24
    ]
    for way in ways:
        with pytest.raises(SteeringError, match="positions .* mask of 24"), torch.no_grad():
            with steer(qwen3, bank, MASK, Seka(gain=1.0)):
                way()
    with pytest.raises(SteeringError, match="positions 0 to 24 and a mask of 23"):
        with torch.no_grad(), steer(qwen3, bank, MASK.repeat(2, 1)[:, 1:], Seka(gain=1.0)):
            qwen3(rows)
    assert attached(qwen3) == 0
    wide = torch.nn.functional.pad(MASK, (5, 0))
    attention = torch.nn.functional.pad(torch.ones_like(IDS), (5, 0))
    single = {"attention_mask": torch.ones_like(IDS), **options}
    with steer(qwen3, bank, MASK, Seka(gain=1.0)):
        wanted = qwen3.generate(IDS, **single)[0, 24:]
    with steer(qwen3, bank, wide, Seka(gain=1.0)):
        assert torch.equal(qwen3.generate(padded, attention_mask=attention, **options)[0, 29:], wanted)
    for speculation in ({"assistant_model": qwen3}, {"prompt_lookup_num_tokens": 3}):  # guesses behind the prompt
        with steer(qwen3, bank, MASK, Seka(gain=1.0)):
            assert torch.equal(qwen3.generate(IDS, **single, **speculation)[0, 24:], wanted)

    def _assisted_decoding():  # the name alone excuses nothing
        qwen3(padded)

    with pytest.raises(SteeringError, match="positions .* mask of 24"), torch.no_grad():
        with steer(qwen3, bank, MASK, Seka(gain=1.0)):
            _assisted_decoding()
    assert "_get_candidate_generator" not in vars(qwen3)
    answer = torch.cat([IDS, wanted[None]], 1)  # an answer that is only scored
    with torch.no_grad(), steer(qwen3, bank, torch.nn.functional.pad(MASK, (0, 4)), Seka(gain=1.0)):
        assert torch.equal(qwen3(answer).logits[0, 23:27].argmax(-1), wanted)


def test_guesses_of_another_thread_excuse_no_mask(qwen3, bank):
    """Assisted decoding runs unsteered beside a block whose mask is too short."""
    guess = partial(qwen3.generate, IDS, max_new_tokens=2, prompt_lookup_num_tokens=3, eos_token_id=None)
    with pytest.raises(SteeringError, match="mask of 23"), torch.no_grad():
        with steer(qwen3, bank, MASK[:, 1:], Seka(gain=1.0)):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(guess).result()
            qwen3(IDS)
