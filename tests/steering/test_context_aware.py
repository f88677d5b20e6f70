"""Contrastive decoding: logits against the formulas, with prompts from which the highlighted tokens are really deleted."""

import math
from contextlib import nullcontext

import modes
import pytest
import torch
from modes import MODES
from tiny import demo_tokenizer, tiny_model

from seka_rag import ContextAware, Prompt, SteeredModel, steer
from seka_rag.errors import SteeringError, UnsupportedModelError
from seka_rag.hf import taps
from seka_rag.steering.registry import as_steering

IDS = torch.arange(30, 30 + 9)[None]
MARKED = torch.zeros(1, 9)
MARKED[0, [0, 3, 4]] = 1
KEPT = [1, 2, 5, 6, 7, 8]


def contrasted(logits, without, alpha, adaptive=False):
    """By loops over one distribution each."""
    if adaptive:
        p, q = ([math.exp(x) for x in v.double().log_softmax(-1).tolist()] for v in (logits, without))
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        alpha *= sum(a * math.log2(a / m) + b * math.log2(b / m) for a, b, m in zip(p, q, middle, strict=True)) / 2
    return torch.tensor([(1 + alpha) * a - alpha * b for a, b in zip(logits.tolist(), without.tolist(), strict=True)])


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "gpt2"])
def test_logits_follow_the_formula_token_by_token(family, adaptive):
    model = tiny_model(family)
    method = ContextAware(alpha=0.7, adaptive=adaptive)
    with torch.no_grad(), steer(model, None, MARKED, method) as report:
        first = model(IDS, use_cache=True)
        second = model(torch.tensor([[77]]), past_key_values=first.past_key_values, use_cache=True)
    assert report.tokens_edited == report.tokens_marked == 3
    longer = torch.cat([IDS, torch.tensor([[77]])], 1)
    with torch.no_grad():
        for out, ids, kept in ((first, IDS, KEPT), (second, longer, [*KEPT, 9])):
            wanted = contrasted(model(ids).logits[0, -1], model(ids[:, kept]).logits[0, -1], 0.7, adaptive)
            assert torch.allclose(out.logits[0, -1], wanted, atol=2e-4)
        plain = model(IDS).logits
        assert not torch.allclose(first.logits[0, -1], plain[0, -1], atol=1e-3)
        with steer(model, None, MARKED, ContextAware(alpha=0.0)):
            assert torch.equal(model(IDS).logits, plain)
    assert not taps._replaced


def test_rows_are_alone_and_unmarked_ones_stay():
    model = tiny_model("qwen3")
    ids, seen, mask = torch.zeros(3, 11, dtype=torch.long), torch.zeros(3, 11, dtype=torch.long), torch.zeros(3, 11)
    ids[0, 2:], seen[0, 2:], mask[0, 2:] = IDS[0], 1, MARKED[0]
    ids[1], seen[1], mask[1, 5] = torch.arange(60, 71), 1, 1
    ids[2], seen[2] = torch.arange(80, 91), 1
    positions = (seen.cumsum(-1) - 1).clamp_min(0)
    method = ContextAware(alpha=0.7)
    with torch.no_grad():
        plain = model(ids, attention_mask=seen, position_ids=positions).logits
        with steer(model, None, mask, method):
            batch = model(ids, attention_mask=seen, position_ids=positions).logits
        with steer(model, None, MARKED, method):
            first = model(IDS).logits
        with steer(model, None, mask[1:2], method):
            second = model(ids[1:2]).logits
    assert torch.allclose(batch[0, -1], first[0, -1], atol=2e-4)
    assert torch.allclose(batch[1, -1], second[0, -1], atol=2e-4)
    assert torch.equal(batch[2], plain[2])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "phi3"])
def test_every_mode_or_refused(family):
    method = ContextAware(alpha=0.7)
    for mode in [*MODES, modes.CONTINUOUS]:
        known = modes.outcome(family, mode)
        if known == "yes" and ("static" in mode or "assisted" in mode or mode in ("prompt lookup", modes.CONTINUOUS)):
            with pytest.raises((SteeringError, UnsupportedModelError), match="static cache|guesses|second cache"):
                modes.outcome(family, mode, method)
        else:
            assert modes.outcome(family, mode, method) == known, mode
    assert not taps._replaced


@pytest.mark.parametrize("family", ["llama", "qwen3", "biogpt"])  # biogpt cannot leave logits out
def test_generation_asks_for_the_last_logits_alone_where_the_model_can(family):
    model, shapes = tiny_model(family), {}
    for method in (None, ContextAware()):
        head = model.get_output_embeddings()
        with torch.no_grad(), steer(model, None, MARKED, method) if method else nullcontext():
            seen = shapes.setdefault(method is None, [])
            handle = head.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out.shape[1]))
            model.generate(IDS, max_new_tokens=2, do_sample=False, eos_token_id=None)
            handle.remove()
    (plain, *_), steered = shapes[True], shapes[False]
    assert steered[:2] == [plain, plain]


def test_a_model_answers_with_it_alone_in_a_batch_and_streamed():
    model, method = SteeredModel(tiny_model("qwen3"), demo_tokenizer()), ContextAware(alpha=2.0)
    prompt = Prompt("Astrid moved to Lyon last year. Where does Astrid live?").highlight("moved to Lyon")
    plain = model.generate(prompt, steering=None, max_new_tokens=6)
    out = model.generate(prompt, steering=method, max_new_tokens=6)
    assert out.text != plain.text
    assert (out.report.method, out.report.gain, out.report.bank) == ("ContextAware", 2.0, None)
    assert "".join(model.stream(prompt, steering=method, max_new_tokens=6)) == out.text
    assert model.generate([prompt, "Who is Boris?"], steering=method, max_new_tokens=6)[0].text == out.text
    prefix = model.prefill("Boris lives in Oslo. ")
    whole = model.generate("Boris lives in Oslo. " + prompt, steering=method, max_new_tokens=6)
    assert model.generate(prompt, prefix=prefix, steering=method, max_new_tokens=6).text == whole.text
    with pytest.raises(SteeringError, match="does not change the keys"):
        model.prefill(prompt, steering=method)
    beams = {"num_beams": 3, "max_new_tokens": 5}
    assert (
        model.generate(prompt, steering=method, **beams).text
        == model.generate([prompt, "Who?"], steering=method, **beams)[0].text
    )


def test_beams_change_places_in_both_caches():
    model = tiny_model("qwen3")
    ids, tokens = IDS.expand(2, -1), torch.tensor([[40], [50]])
    with torch.no_grad(), steer(model, None, MARKED, ContextAware(alpha=0.7)):
        cache = model(ids, use_cache=True).past_key_values
        model(tokens, past_key_values=cache)
        cache.reorder_cache(torch.tensor([1, 1]))
        swapped = model(torch.tensor([[41], [41]]), past_key_values=cache).logits[:, -1]
    assert "reorder_cache" not in vars(cache)
    longer = torch.cat([IDS, torch.tensor([[50, 41]])], 1)
    with torch.no_grad(), steer(model, None, torch.nn.functional.pad(MARKED, (0, 2)), ContextAware(alpha=0.7)):
        wanted = model(longer).logits[:, -1]
    assert torch.allclose(swapped, wanted.expand(2, -1), atol=2e-4)


def test_what_cannot_be_done_is_refused():
    model = tiny_model("qwen3")
    assert as_steering(ContextAware(adaptive=True).as_dict()) == ContextAware(adaptive=True)
    with pytest.raises(ValueError, match="finite"):
        ContextAware(alpha=float("nan"))
    with pytest.raises(SteeringError, match="only 0 of 3"), steer(model, None, MARKED, ContextAware()):
        pass
    with pytest.raises(SteeringError, match="cannot be nested"), steer(model, None, MARKED, ContextAware()):
        with steer(model, None, MARKED, ContextAware()):
            pass
    last = torch.zeros(1, 9)
    last[0, -1] = 1
    with torch.no_grad(), pytest.raises(SteeringError, match="last token of a prompt"):
        with steer(model, None, last, ContextAware()):
            model(IDS)
    with torch.no_grad(), pytest.raises(SteeringError, match="in the cache already"):
        cache = model(IDS[:, :4], use_cache=True).past_key_values
        with steer(model, None, MARKED, ContextAware()):
            model(IDS[:, 4:], past_key_values=cache)
    hybrid = tiny_model("lfm2")
    with pytest.raises(UnsupportedModelError, match="layers without keys"), steer(hybrid, None, MARKED, ContextAware()):
        pass
    assert not taps._replaced
