"""VllmModel with SmolLM2: answers, log-probabilities and reports are those of SteeredModel."""

from __future__ import annotations

import pytest
import torch
from real import load_smollm2
from seka_vllm import VllmModel
from vllm_engines import Asked, answers, largest_difference, reference

from seka_rag import Prompt, RandomProjection, SteeredModel, load_bank
from seka_rag.errors import ContextLengthError, SettingError, SteeringError
from seka_rag.hf.packaged import PACKAGED
from seka_rag.steering.registry import suggested

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(900)]
ENGINE = {
    "dtype": "float32",
    "max_model_len": 1024,
    "enforce_eager": True,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 128,
    "block_size": 32,
    "max_logprobs": 20,
}
BANK = load_bank(PACKAGED["smollm2"].bank)
METHOD = suggested(BANK).model_copy(update={"fade": None})  # vLLM's does not fade
NEWS = "Ada moved to Lyon in 2021."
TEXT = f"Ada Byron lived in Paris for many years. {NEWS} She works as an engineer and likes to swim.\n"


@pytest.fixture(scope="module")
def here():
    hf_model, tokenizer = load_smollm2()
    return SteeredModel(hf_model, tokenizer, bank=BANK, steering=METHOD, name="smollm2")


@pytest.fixture(scope="module")
def there(here):
    with VllmModel("smollm2", **ENGINE) as model:
        yield model


def question(city: str = "Lyon") -> list[dict]:
    return [{"role": "user", "content": Prompt(TEXT + "Where does Ada live? Answer in one word.").highlight(f"{NEWS}")}]


def test_answers_of_a_batch_are_those_of_steered_model(here, there):
    conversations = [
        question(),
        [{"role": "user", "content": "Name the capital of Italy."}],
        [{"role": "user", "content": str(question()[0]["content"])}],
    ]
    found = there.chat(conversations, max_new_tokens=24)
    for messages, answer in zip(conversations, found, strict=True):
        expected = here.chat(messages, max_new_tokens=24)
        assert (answer.text, answer.prompt_tokens, answer.completion_tokens, answer.finish_reason) == (
            expected.text,
            expected.prompt_tokens,
            expected.completion_tokens,
            expected.finish_reason,
        )
        assert {**answer.report.as_dict(), "warnings": []} == {**expected.report.as_dict(), "warnings": []}
    assert "fading" in found[0].report.warnings[-1]
    assert found[0].report.tokens_marked > 5
    assert found[1].report.tokens_marked == 0


def test_log_probabilities_are_those_of_transformers(here, there):
    """Prompts of several chunks, with and without what is in the prefix cache."""
    steps = 8
    prompts = [there.served.tokenize_chat(question())]
    long = Prompt(TEXT * 12) + Prompt(NEWS).mark(0, len(NEWS)) + Prompt(TEXT * 2 + "Where does Ada live?")
    prompts += [there.served.tokenize(long), there.served.tokenize(str(long))]
    asked = [Asked(tuple(tokens.ids), there.served._highlights(tokens, "auto")) for tokens in prompts]
    assert [one.highlights is not None for one in asked] == [True, True, False]
    expected = reference(here.hf_model, BANK, METHOD, asked, steps)
    there.llm.reset_prefix_cache()
    for name in ("chunks and mixed batch", "prefix cache"):
        found = answers(there.llm, asked, steps, 20)
        assert all(row.isfinite().sum() >= 20 for _, scores, _ in found for row in scores)
        difference = largest_difference(found, expected)
        print(f"\nsmollm2, {name}: {difference:.1e}")
        assert difference < 1e-4
    assert (expected[1][1][0] - expected[2][1][0]).abs().max() > 0.1  # steering matters there


def test_options_and_strength(here, there):
    prompt = question()
    assert there.chat(prompt, steering=None, max_new_tokens=8).report.method == "none"
    for method in (METHOD.with_strength(0.3 * METHOD.strength), METHOD.with_strength(1.5 * METHOD.strength)):
        answer = there.chat(prompt, steering=method, max_new_tokens=8)
        assert answer.text == here.chat(prompt, steering=method, max_new_tokens=8).text
        assert answer.report.gain == method.strength
    stopped = there.generate("One, two, three,", stop=["five"], max_new_tokens=30)
    assert stopped.text == here.generate("One, two, three,", stop=["five"], max_new_tokens=30).text
    marked = there.generate(Prompt("One, two, three,").mark(0, 3), stop=[" four"], max_new_tokens=30)
    assert marked.report.tokens_edited == 1  # also where the text, not the engine, ends the answer
    drawn = [there.generate("A story:", temperature=1.0, seed=3, max_new_tokens=8).text for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_what_is_refused(there):
    with pytest.raises(SettingError, match="chosen at its start"):
        there.chat(question(), steering=RandomProjection(gain=0.5))
    with pytest.raises(SettingError, match="no option num_beams"):
        there.chat(question(), num_beams=2)
    with pytest.raises(ContextLengthError, match="a context of 1024"):
        there.generate("word " * 2000)
    with pytest.raises(SettingError, match="no bank ships with"):
        VllmModel("some/model")
    tokens = there.served.tokenize_chat(question())
    with pytest.raises(SteeringError, match="without a report"):
        there.served.report(tokens, {}, None)
    with pytest.raises(SteeringError, match=r"only 3 of \d+"):
        there.served.report(tokens, {}, {"seka": {"tokens_edited": 3, "gain": 1.0}})


def test_no_weights_are_drawn_anew(there):
    """The engine's own random state is not touched by the small model that methods measure."""
    before = torch.random.get_rng_state()
    from seka_vllm.profiles import plan_edits

    plan_edits(there.served.banks["main"], there.llm.llm_engine.model_config.hf_config)
    assert torch.equal(before, torch.random.get_rng_state())
