"""Attention bias: attention equals loops over the plain scores, in eager and sdpa attention, in every way of running."""

import math

import modes
import pytest
import torch
from modes import MODES
from scores import scores_of
from tiny import demo_tokenizer, random_bank, tiny_model

from seka_rag import AttentionBias, Prompt, SteeredModel, steer
from seka_rag.errors import BankError, SettingError, SteeringError, UnsupportedModelError
from seka_rag.hf import taps
from seka_rag.hf.find import find_key_sites
from seka_rag.steering.registry import as_steering

IDS = torch.arange(30, 30 + 2 * 7).view(2, 7)
MARKED = torch.zeros(2, 7)
MARKED[0, [0, 3]], MARKED[1, 4] = torch.tensor([1.0, 0.5]), 1


def attention(model, method, layer, bank=None):
    """Weights ``[B, Q, T, T]`` of one layer, steered."""
    with torch.no_grad(), steer(model, bank, MARKED, method) as report:
        found = model(IDS, output_attentions=True, use_cache=False).attentions[layer]
    assert report.tokens_edited == 3
    return found


def by_loops(scores, added):
    """softmax over what each query may see, with ``added(b, q, t, j, attention) `` to each score."""
    out = torch.zeros_like(scores, dtype=torch.float64)
    for b, h, t in [(b, h, t) for b in range(2) for h in range(scores.shape[1]) for t in range(7)]:
        exps = [math.exp(float(scores[b, h, t, j])) for j in range(t + 1)]
        plain = [e / sum(exps) for e in exps]
        exps = [e * math.exp(added(b, h, t, j, plain)) for j, e in enumerate(exps)]
        out[b, h, t, : t + 1] = torch.tensor([e / sum(exps) for e in exps])
    return out


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "gpt_neox"])
def test_attention_equals_the_loops(family):
    model = tiny_model(family, attn_implementation="eager")
    scores = scores_of(model, IDS, 0)
    found = attention(model, AttentionBias(bias=1.3), 0)
    wanted = by_loops(scores, lambda b, h, t, j, plain: 1.3 * float(MARKED[b, j]))
    assert torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-6)


def test_it_is_pasta_on_chosen_heads():
    """Attention to all but the highlight is multiplied by alpha and renormalised, in the bank's heads."""
    model = tiny_model("qwen3", attn_implementation="eager")
    bank = random_bank(model).select(heads=[(0, 1), (1, 0)])
    mask, alpha = MARKED > 0, 0.01
    with torch.no_grad():
        plain = model(IDS, output_attentions=True, use_cache=False).attentions[0]
        with steer(model, bank, mask, AttentionBias(bias=-math.log(alpha), heads="bank")) as report:
            found = model(IDS, output_attentions=True, use_cache=False).attentions[0]
    assert (report.layers, report.heads) == ((0, 1), 2)
    wanted = plain * torch.where(mask, 1.0, alpha)[:, None, None]
    wanted = wanted / wanted.sum(-1, keepdim=True)
    assert torch.equal(found[:, :2], plain[:, :2])  # query heads 2 and 3 belong to key head 1
    assert torch.allclose(found[:, 2:], wanted[:, 2:], rtol=1e-4, atol=1e-6)


def test_spotlight_adds_only_what_is_missing():
    model = tiny_model("qwen3", attn_implementation="eager")
    scores = scores_of(model, IDS, 0)

    def missing(b, h, t, j, plain):
        share = sum(p for i, p in enumerate(plain) if MARKED[b, i] > 0)
        return min(5.0, max(0.0, math.log(0.4 / share))) if share and MARKED[b, j] > 0 else 0.0

    found = attention(model, AttentionBias(bias=5.0, target=0.4), 0)
    assert torch.allclose(found.double(), by_loops(scores, missing), rtol=1e-4, atol=1e-6)
    capped = attention(model, AttentionBias(bias=0.1, target=0.4), 0)
    wanted = by_loops(scores, lambda *at: min(0.1, missing(*at)))
    assert torch.allclose(capped.double(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [AttentionBias(bias=2.0), AttentionBias(bias=6.0, target=0.5)])
def test_sdpa_equals_eager_and_padding_changes_nothing(method):
    eager, sdpa = (tiny_model("qwen3", attn_implementation=kind) for kind in ("eager", "sdpa"))
    bare, padded = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 9)
    bare[:, 2:], padded[:, 2:] = IDS, MARKED
    seen = torch.ones(2, 9, dtype=torch.long)
    seen[:, :2] = 0
    positions = (seen.cumsum(-1) - 1).clamp_min(0)
    with torch.no_grad():
        results = []
        for model in (eager, sdpa):
            with steer(model, None, MARKED, method):
                results.append(model(IDS).logits)
            with steer(model, None, padded, method):
                results.append(model(bare, attention_mask=seen, position_ids=positions).logits[:, 2:])
            with steer(model, None, MARKED[:1], method):
                results.append(torch.cat([model(IDS[:1]).logits, results[0][1:]]))
        plain = sdpa(IDS).logits
        with steer(sdpa, None, MARKED, AttentionBias(bias=0.0)):
            assert torch.equal(sdpa(IDS).logits, plain)
    assert not torch.allclose(results[0], plain, atol=1e-3)
    assert all(torch.allclose(r, results[0], atol=2e-4) for r in results)
    assert not taps._replaced


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "phi3", "lfm2"])
def test_every_mode_or_refused(family):
    for mode in MODES:
        assert modes.outcome(family, mode, AttentionBias(bias=3.0)) == modes.outcome(family, mode), mode
    if modes.outcome(family, modes.CONTINUOUS) == "yes":
        with pytest.raises(UnsupportedModelError, match="continuous batching"):
            modes.outcome(family, modes.CONTINUOUS, AttentionBias(bias=3.0))
    assert not taps._replaced


def test_a_model_answers_with_it_alone_in_a_batch_and_streamed():
    hf_model = tiny_model("qwen3")
    model, method = SteeredModel(hf_model, demo_tokenizer()), AttentionBias(bias=4.0)
    prompt = Prompt("Astrid moved to Lyon last year. Where does Astrid live?").highlight("moved to Lyon")
    plain = model.generate(prompt, steering=None, max_new_tokens=6)
    out = model.generate(prompt, steering=method, max_new_tokens=6)
    assert out.text != plain.text
    assert out.report.tokens_edited == out.report.tokens_marked > 0
    assert "".join(model.stream(prompt, steering=method, max_new_tokens=6)) == out.text
    assert model.generate([prompt, "Who is Boris?"], steering=method, max_new_tokens=6)[0].text == out.text
    prefix = model.prefill("Boris lives in Oslo. ")
    whole = model.generate("Boris lives in Oslo. " + prompt, steering=method, max_new_tokens=6)
    assert model.generate(prompt, prefix=prefix, steering=method, max_new_tokens=6).text == whole.text
    with pytest.raises(SteeringError, match="does not change the keys"):
        model.prefill(prompt, steering=method)


def test_what_cannot_be_done_is_refused():
    model = tiny_model("qwen3")
    assert as_steering(AttentionBias(bias=1.0, target=0.2).as_dict()) == AttentionBias(bias=1.0, target=0.2)
    for bad in ({"target": 1.0}, {"target": 0.0}, {"bias": float("inf")}, {"heads": "some"}):
        with pytest.raises(ValueError, match="target|bias|heads"):
            AttentionBias(**bad)
    with pytest.raises(BankError, match="takes its heads"), steer(model, None, MARKED, AttentionBias(heads="bank")):
        pass
    with pytest.raises(BankError, match=r"layers \[7\]"), steer(model, None, MARKED, AttentionBias(layers=(7,))):
        pass
    with pytest.raises(SteeringError, match="only 0 of 3"), steer(model, None, MARKED, AttentionBias()):
        pass
    with pytest.raises(SettingError, match="overflow"), steer(model, None, MARKED, AttentionBias(bias=1e30)):
        pass
    sites = find_key_sites(model)
    attention = sites.decoder.layers[0].self_attn
    attention.forward = lambda hidden_states, **_: (hidden_states, None)  # a kernel that shows nothing
    with pytest.raises(UnsupportedModelError, match="does not show its scores"):
        with torch.no_grad(), steer(model, None, MARKED, AttentionBias()):
            model(IDS)
    del attention.forward
