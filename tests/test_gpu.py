"""On a GPU as on a processor; skipped where there is none."""

import copy
import os
import warnings

import pytest
import torch
from modes import IDS, MASK
from tiny import random_bank, tiny_examples, tiny_model

from seka_rag import Prompt, SteeredModel, learn_bank, steer, template_triples
from seka_rag.bank.experts import ExpertBank
from seka_rag.hf.find import find_key_sites
from seka_rag.learning.trials import Bench
from seka_rag.model.citations import Excerpt, cite
from seka_rag.steering.adaseka import AdaSeka
from seka_rag.steering.attention_bias import AttentionBias
from seka_rag.steering.context_aware import ContextAware
from seka_rag.steering.key_bias import KeyBias
from seka_rag.steering.key_editing import KeyEditing
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.prism import Prism
from seka_rag.steering.random_projection import RandomProjection
from seka_rag.steering.seka import Seka
from seka_rag.text.spans import Span

#: SEKA_TEST_DEVICE=cpu runs these tests without a GPU, to see that they are right themselves.
DEVICE = os.environ.get("SEKA_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU")

METHODS = {
    "seka": Seka(gain=2.0),
    "key scaling": KeyScaling(gain=1.0),
    "random projection": RandomProjection(gain=2.0),
    "key bias": KeyBias(bias=2.0),
    "key bias, mean": KeyBias(bias=2.0, form="mean"),
    "key bias, request": KeyBias(bias=2.0, form="request"),
    "key bias, fading": KeyBias(bias=2.0, fade=2),
    "prism": Prism(gain=1.0, gain_value=0.5),
    "attention bias": AttentionBias(bias=2.0),
    "attention bias, target": AttentionBias(bias=4.0, target=0.5),
    "context-aware": ContextAware(alpha=0.5),
    "adaseka": AdaSeka(gain=2.0),
}
KEY_EDITS = [name for name, method in METHODS.items() if isinstance(method, KeyEditing)]
PROMPTS = [
    Prompt("Astrid moved to Lyon last year. Where does Astrid live?").highlight("moved to Lyon"),
    Prompt("The code of the door is 4711, and that of the gate 12. Which one opens the door?").highlight("is 4711"),
    Prompt("What is this?"),
]


@pytest.fixture(scope="module")
def models():
    """The same model on the processor and on the device."""
    here = tiny_model("qwen3")
    return here, copy.deepcopy(here).to(DEVICE)


@pytest.fixture(scope="module")
def bank_of(models):
    bank = random_bank(models[0])
    experts = ExpertBank({"one": bank, "two": random_bank(models[0], seed=1)})
    return lambda method: experts if isinstance(method, AdaSeka) else bank


@pytest.mark.parametrize("name", METHODS)
def test_scores_are_those_of_the_processor(models, bank_of, name):
    method = METHODS[name]
    scores = []
    for model in models:
        ids, mask = IDS.to(model.device), torch.ones_like(IDS).to(model.device)
        with torch.no_grad(), steer(model, bank_of(method), MASK, method) as report:
            out = model.generate(
                ids, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        assert report.tokens_edited == report.tokens_marked == 5
        scores.append(torch.stack(out.logits).cpu())
    torch.testing.assert_close(scores[0], scores[1], atol=2e-4, rtol=2e-4)
    plain = models[0](IDS).logits[0, -1]
    assert (scores[1][0, 0] - plain).abs().max() > 0.05  # it does steer


@pytest.mark.parametrize("name", METHODS)
def test_answers_reports_batches_and_streams(models, tokenizer, bank_of, name):
    method = METHODS[name]
    here, there = (SteeredModel(m, tokenizer, bank=bank_of(method), steering=method, name="tiny") for m in models)
    expected = here.generate(PROMPTS, max_new_tokens=6)
    batch = there.generate(PROMPTS, max_new_tokens=6)
    assert [out.text for out in batch] == [out.text for out in expected]
    assert [out.report.tokens_marked for out in batch] == [out.report.tokens_marked for out in expected]
    single = there.generate(PROMPTS[0], max_new_tokens=6)
    assert single.text == expected[0].text
    stream = there.stream(PROMPTS[0], max_new_tokens=6)
    assert "".join(stream) == expected[0].text


def test_nothing_highlighted_is_the_plain_model(models, bank_of):
    there = models[1]
    ids = IDS.to(there.device)
    with torch.no_grad():
        plain = there(ids).logits
        for method in (Seka(gain=0.0), KeyBias(bias=0.0)):
            with steer(there, bank_of(method), MASK, method):
                assert torch.equal(there(ids).logits, plain)


@pytest.mark.skipif(DEVICE == "cpu", reason="a processor waits for nothing")
@pytest.mark.parametrize("name", [n for n in KEY_EDITS if n != "adaseka"])
def test_an_edit_never_makes_the_host_wait(models, bank_of, name):
    there = models[1]
    method, ids = METHODS[name], IDS.to(there.device)

    def waits():
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                there(ids)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return [str(w.message) for w in found if "synchroniz" in str(w.message)]

    with torch.no_grad():
        there(ids)
        plain = waits()
        with steer(there, bank_of(method), MASK, method):
            there(ids)  # places the edits on the device, once
        with steer(there, bank_of(method), MASK, method):
            assert len(waits()) == len(plain)


def test_a_learned_bank_is_that_of_the_processor(models, tokenizer):
    here, there = (learn_bank(m, template_triples(12), tokenizer=tokenizer) for m in models)
    assert here.ranks.equal(there.ranks)
    for layer in here.positive:
        torch.testing.assert_close(here.projection(layer), there.projection(layer), atol=1e-3, rtol=1e-3)
    assert here.model == there.model


def test_calibration_measures_as_on_the_processor(models, bank_of):
    found = []
    for model in models:
        sites = find_key_sites(model)
        bench = Bench(model, sites, tiny_examples(4, 0), tiny_examples(4, 1), batch_size=3)
        method = KeyBias(bias=2.0)
        found.append(bench.measure(method, method.edits(bank_of(None), sites), "all", 4))
    assert found[0].following == found[1].following
    assert found[0].margin == pytest.approx(found[1].margin, abs=1e-3)
    assert found[0].disturbance == pytest.approx(found[1].disturbance, abs=1e-4)
    assert found[1].disturbance > 0


def test_citations(models, tokenizer, bank_of):
    text = "Astrid moved to Lyon. Boris stayed in Rome. Where does Astrid live?"
    excerpts = [Excerpt(i, 0, end - start, 0, Span(start, end)) for i, (start, end) in enumerate([(0, 21), (22, 43)])]
    cited = [
        cite(SteeredModel(m, tokenizer, bank=bank_of(None), name="tiny"), Prompt(text), "In Lyon.", excerpts)
        for m in models
    ]
    assert [c.passage for c in cited[0]] == [c.passage for c in cited[1]] != []
    assert [c.share for c in cited[0]] == pytest.approx([c.share for c in cited[1]], abs=1e-4)
