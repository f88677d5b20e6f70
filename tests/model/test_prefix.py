"""A prefix computed once gives what the whole prompt gives."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import random_bank, random_expert, tiny_model

from seka_rag import AdaSeka, ExpertBank, KeyBias, Prompt, Seka, SteeredModel
from seka_rag.errors import ContextLengthError, SettingError, SteeringError, TokenizationError

BEGIN = Prompt("Context: Ada lives in Lyon. Robert lives in Boston.\n").highlight("Ada lives in Lyon.")
ASKED = ["Question: Where does Ada live?\nAnswer:", "Question: Where does Robert live now?\nAnswer:", "Question: Ada?"]
STRONG = Seka(gain=4.0)


@pytest.fixture(scope="module", params=["qwen3", "gemma3_text", "lfm2"])  # full, sliding, and partly no attention
def model(request, tokenizer):
    hf_model = tiny_model(request.param, vocab_size=max(1500, len(tokenizer)))
    return SteeredModel(hf_model, tokenizer, bank=random_bank(hf_model), steering=STRONG)


@pytest.fixture(scope="module")
def prefix(model):
    return model.prefill(BEGIN)


def tensors(cache):
    return [t.clone() for layer in cache.layers for t in vars(layer).values() if isinstance(t, torch.Tensor)]


def test_questions_after_a_prefix_equal_whole_prompts(model, prefix):
    before = tensors(prefix._cache)
    for question in ASKED:
        whole = model.generate(BEGIN + question, max_new_tokens=6)
        out = model.generate(question, prefix=prefix, max_new_tokens=6)
        assert (out.text, out.report.as_dict()) == (whole.text, whole.report.as_dict())
        assert out.prompt_tokens == whole.prompt_tokens
    if model.hf_model.config.model_type == "qwen3":  # elsewhere random weights say one thing
        assert whole.text != model.generate(BEGIN.text + question, max_new_tokens=6).text
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(prefix._cache), strict=True))


@pytest.mark.parametrize("questions", [ASKED, [ASKED[0]] * 3])
def test_batches_streams_and_beams(model, prefix, questions):
    singles = [model.generate(q, prefix=prefix, max_new_tokens=5) for q in questions]
    batch = model.generate(questions, prefix=prefix, max_new_tokens=5)
    assert [b.text for b in batch] == [s.text for s in singles]
    assert "".join(model.stream(questions[0], prefix=prefix, max_new_tokens=5)) == singles[0].text
    beams = model.generate(questions[0], prefix=prefix, max_new_tokens=5, num_beams=3, num_return_sequences=2)
    whole = model.generate(BEGIN + questions[0], max_new_tokens=5, num_beams=3, num_return_sequences=2)
    assert [b.text for b in beams] == [w.text for w in whole]


def test_highlights_in_the_question_are_added(model, prefix):
    question = Prompt(ASKED[0]).highlight("Ada")
    out = model.generate(question, prefix=prefix, max_new_tokens=6)
    whole = model.generate(BEGIN + question, max_new_tokens=6)
    assert (out.text, out.report.as_dict()) == (whole.text, whole.report.as_dict())
    plain = model.prefill(BEGIN.text)
    assert model.generate(question, prefix=plain, max_new_tokens=6).text == (
        model.generate(BEGIN.text + question, max_new_tokens=6).text
    )


def test_threads_share_a_prefix(model, prefix):
    alone = [model.generate(q, prefix=prefix, max_new_tokens=5).text for q in ASKED]
    with ThreadPoolExecutor(6) as pool:
        texts = list(pool.map(lambda q: model.generate(q, prefix=prefix, max_new_tokens=5).text, ASKED * 4))
    assert texts == alone * 4


def test_speculation_on_a_prefix_is_refused_because_transformers_gets_it_wrong(steered):
    prefix = steered.prefill(BEGIN.text)
    for speculation in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": tiny_model("qwen3", seed=4)}):
        with pytest.raises(SettingError, match="without prefix"):
            steered.generate(ASKED[0], prefix=prefix, max_new_tokens=8, **speculation)
    ids = torch.tensor([steered.tokenize(BEGIN.text + ASKED[0]).ids])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    whole = steered.hf_model.generate(ids, **options)
    wrong = steered.hf_model.generate(ids, past_key_values=prefix.cache(1), prompt_lookup_num_tokens=3, **options)
    assert not torch.equal(whole, wrong)  # once this fails, the refusal can go


def test_what_does_not_belong_to_a_prefix_is_refused(steered, qwen3, tokenizer):
    prefix = steered.prefill(BEGIN, steering=STRONG)
    with pytest.raises(SteeringError, match=r"steered with Seka\(gain=4.0.*asked for are Seka\(gain=0.5"):
        steered.generate(ASKED[0], prefix=prefix)
    with pytest.raises(SteeringError, match="asked for are None"):
        steered.generate(ASKED[0], prefix=prefix, steering=None)
    other_bank = SteeredModel(qwen3, tokenizer, bank=random_bank(qwen3, seed=5), steering=STRONG)
    with pytest.raises(SteeringError, match="bank"):
        other_bank.generate(ASKED[0], prefix=prefix)
    other = tiny_model("qwen3", seed=1)
    with pytest.raises(SteeringError, match="another model"):
        SteeredModel(other, tokenizer, bank=random_bank(other), steering=STRONG).generate(ASKED[0], prefix=prefix)
    with pytest.raises(ContextLengthError):
        steered.generate("Ada " * 600, prefix=prefix, steering=STRONG, truncate="left")
    with pytest.raises(TokenizationError, match="nothing follows"):
        steered.generate("", prefix=prefix, steering=STRONG)
    with pytest.raises(TokenizationError, match="does not begin with"):
        steered.generate(
            steered.tokenize("Ada lives in Lyon and Robert lives in Boston."), prefix=prefix, steering=STRONG
        )
    from_tokens = steered.prefill(steered.tokenize(BEGIN), steering=STRONG)
    with pytest.raises(TokenizationError, match="made from tokens"):
        steered.generate(ASKED[0], prefix=from_tokens, steering=STRONG)
    whole = steered.tokenize(BEGIN + ASKED[0])
    plain = steered.generate(whole, steering=STRONG, max_new_tokens=4)
    assert steered.generate(whole, prefix=from_tokens, steering=STRONG, max_new_tokens=4).text == plain.text


def test_a_boundary_inside_a_token_is_refused(steered):
    text = "Ada lives in Lyon"
    ids = steered.tokenize(text).ids
    cuts = [i for i in range(1, len(text)) if steered.tokenize(text[:i]).ids != ids[: len(steered.tokenize(text[:i]))]]
    assert cuts
    prefix = steered.prefill(text[: cuts[0]])
    with pytest.raises(TokenizationError, match="merged"):
        steered.generate(text[cuts[0] :], prefix=prefix, max_new_tokens=1)


def test_experts_cannot_be_chosen_by_a_prefix(qwen3, tokenizer):
    experts = ExpertBank({"a": random_expert(qwen3, 1), "b": random_expert(qwen3, 2)})
    model = SteeredModel(qwen3, tokenizer, bank=experts, steering=AdaSeka(gain=2.0))
    with pytest.raises(SteeringError, match="end of the whole prompt"):
        model.prefill(BEGIN)
    question = Prompt(ASKED[0]).highlight("Ada")
    out = model.generate(question, prefix=model.prefill(BEGIN.text), max_new_tokens=4)
    assert out.text == model.generate(BEGIN.text + question, max_new_tokens=4).text


def test_a_constant_bias_is_kept_in_a_prefix_and_the_other_forms_are_refused(qwen3, tokenizer, make_bank):
    model = SteeredModel(qwen3, tokenizer, bank=make_bank(qwen3), steering=KeyBias(bias=6.0))
    question = Prompt(ASKED[0]).highlight("Ada")
    out = model.generate(question, prefix=model.prefill(BEGIN), max_new_tokens=6)
    whole = model.generate(BEGIN + question, max_new_tokens=6)
    assert out.text == whole.text != model.generate(BEGIN + question, steering=None, max_new_tokens=6).text
    assert out.report.tokens_edited == whole.report.tokens_edited
    for form in ("mean", "request"):
        with pytest.raises(SteeringError, match="end of the whole prompt"):
            model.prefill(BEGIN, steering=KeyBias(form=form))


def test_the_suggested_method_does_not_fade_in_a_prefix(model):
    """A bank may suggest a method that fades. What was named is refused; what was not is taken as far as it goes."""
    method = Seka(gain=1.0, fade=4)
    fading = SteeredModel(model.hf_model, model.tokenizer, bank=model.bank, steering=method)
    assert fading.prefill(BEGIN).method == Seka(gain=1.0)
    with pytest.raises(SteeringError):
        fading.prefill(BEGIN, steering=method)
    answer = fading.generate(ASKED[0], prefix=fading.prefill(BEGIN), max_new_tokens=4)
    whole = fading.generate(BEGIN + ASKED[0], steering=Seka(gain=1.0), max_new_tokens=4)
    assert answer.text == whole.text
