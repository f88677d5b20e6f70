import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from seka_rag import KeyScaling, Prompt, RandomProjection, Seka, SteeredModel
from seka_rag.errors import (
    BankError,
    ContextLengthError,
    ModelNotFoundError,
    SettingError,
    SteeringError,
    TokenizationError,
)

TEXT = "Context: Ada lives in Lyon. Robert lives in Boston.\nQuestion: Where does Ada live?\nAnswer:"
PROMPT = Prompt(TEXT).highlight("Ada lives in Lyon.")
STRONG = Seka(gain=4.0)


def hooks(model):
    return sum(("forward" in vars(m)) + len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_highlight_changes_the_answer_and_gain_zero_does_not(steered):
    plain = steered.generate(TEXT, max_new_tokens=8)
    assert steered.generate(PROMPT, steering=None, max_new_tokens=8).text == plain.text
    assert steered.generate(PROMPT, steering=Seka(gain=0), max_new_tokens=8).text == plain.text
    out = steered.generate(PROMPT, steering=STRONG, max_new_tokens=8)
    assert out.text != plain.text
    assert (out.report.method, out.report.gain) == ("Seka", 4.0)
    assert out.report.tokens_marked == out.report.tokens_edited == 5
    assert out.report.layers == (0, 1, 2)
    assert out.report.bank == steered.bank.digest
    assert "Lyon" not in str(out.report.as_dict())
    assert plain.report.method == "none"


def test_the_first_token_is_that_of_a_steered_forward_pass(steered):
    from seka_rag import steer

    tokens = steered.tokenize(PROMPT)
    with torch.no_grad(), steer(steered.hf_model, steered.bank, torch.tensor([tokens.weights]), STRONG):
        wanted = steered.hf_model(torch.tensor([tokens.ids])).logits[0, -1].argmax()
    out = steered.generate(PROMPT, steering=STRONG, max_new_tokens=1)
    assert out.text == steered.tokenizer.decode([wanted])


@pytest.mark.parametrize(
    "method", [Seka(gain=2.0, gain_neg=0.5), KeyScaling(gain=1.0), RandomProjection(gain=2.0, seed=3)]
)
def test_every_method_steers(steered, method):
    out = steered.generate(PROMPT, steering=method, max_new_tokens=8)
    assert out.report.tokens_edited == 5
    assert out.text != steered.generate(TEXT, max_new_tokens=8).text


def test_a_batch_of_different_rows_equals_single_runs(steered):
    prompts = [
        PROMPT,
        TEXT,
        Prompt("Ada and Boris").highlight("Boris", 0.5),
        "Context: Ada lives in Lyon. Robert lives in Boston. " + PROMPT,
    ]
    batch = steered.generate(prompts, steering=STRONG, max_new_tokens=6)
    singles = [steered.generate(p, steering=STRONG, max_new_tokens=6) for p in prompts]
    assert [b.text for b in batch] == [s.text for s in singles]
    assert [b.prompt_tokens for b in batch] == [s.prompt_tokens for s in singles]
    assert steered.generate([], max_new_tokens=1) == []


def test_stream_pieces_add_up(steered):
    whole = steered.generate(PROMPT, steering=STRONG, max_new_tokens=12)
    stream = steered.stream(PROMPT, steering=STRONG, max_new_tokens=12)
    assert "".join(stream) == whole.text
    assert stream.result.report.tokens_edited == 5
    assert stream.result.completion_tokens == whole.completion_tokens
    with pytest.raises(RuntimeError, match="only once"):
        list(stream)


def test_leaving_a_stream_ends_the_generation(steered):
    stream = steered.stream(PROMPT, max_new_tokens=400)
    for _ in stream:
        break
    stream.close()
    assert not any(t.name == "seka-stream" for t in threading.enumerate())
    assert hooks(steered.hf_model) == 0


def test_a_failing_generation_raises_in_stream_and_async(steered):
    with pytest.raises(ValueError, match="num_beams"):
        list(steered.stream(PROMPT, max_new_tokens=4, num_beams=-1))

    async def run():
        async for _ in steered.astream(PROMPT, max_new_tokens=4, num_beams=-1):
            pass

    with pytest.raises(ValueError, match="num_beams"):
        asyncio.run(run())
    assert hooks(steered.hf_model) == 0


async def test_async_equals_sync(steered):
    whole = steered.generate(PROMPT, steering=STRONG, max_new_tokens=8)
    assert (await steered.agenerate(PROMPT, steering=STRONG, max_new_tokens=8)).text == whole.text
    pieces = [p async for p in steered.astream(PROMPT, steering=STRONG, max_new_tokens=8)]
    assert "".join(pieces) == whole.text
    many = await asyncio.gather(*(steered.agenerate(p, steering=STRONG, max_new_tokens=8) for p in [PROMPT, TEXT] * 4))
    assert {m.text for m in many[::2]} == {whole.text}
    assert {m.text for m in many[1::2]} == {steered.generate(TEXT, max_new_tokens=8).text}


def test_threads_do_not_see_each_others_steering(steered):
    def run(i):
        prompt = Prompt(TEXT).highlight(["Ada lives", "Robert", "Lyon", "Boston"][i % 4])
        return steered.generate(prompt, steering=Seka(gain=1.0 + i % 3), max_new_tokens=6).text

    alone = [run(i) for i in range(16)]
    assert len(set(alone)) > 3
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(16))) == alone


def test_stop_strings_end_the_answer_and_are_cut(steered):
    whole = steered.generate(PROMPT, steering=STRONG, max_new_tokens=12).text
    words = whole.split()
    stop = words[3]
    out = steered.generate(PROMPT, steering=STRONG, max_new_tokens=12, stop=[stop, "never"])
    assert out.text == whole[: whole.index(stop)]
    assert out.finish_reason == "stop"
    assert out.completion_tokens < 12
    assert "".join(steered.stream(PROMPT, steering=STRONG, max_new_tokens=12, stop=stop)) == out.text
    assert steered.generate(PROMPT, steering=STRONG, max_new_tokens=2).finish_reason == "length"


def test_end_tokens_of_a_call_end_its_answer_and_are_no_text(steered):
    prompt = torch.tensor([steered.tokenize(TEXT).ids])
    ids = steered.hf_model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :].tolist()
    for ends in (ids[3], [ids[3], -1], torch.tensor([ids[3]])):
        out = steered.generate(TEXT, eos_token_id=ends, max_new_tokens=12)
        kept = ids[: ids.index(ids[3])]
        assert (out.finish_reason, out.completion_tokens) == ("stop", len(kept))
        assert out.text == steered.tokenizer.decode(kept)
        assert "".join(steered.stream(TEXT, eos_token_id=ends, max_new_tokens=12)) == out.text


def test_seeds_make_sampling_repeatable_and_leave_the_global_generator_alone(steered):
    def sample(seed):
        return steered.generate(PROMPT, temperature=1.5, seed=seed, max_new_tokens=10).text

    state = torch.get_rng_state()
    assert sample(1) == sample(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert len({sample(i) for i in range(5)}) > 1
    greedy = steered.generate(PROMPT, max_new_tokens=10).text
    assert steered.generate(PROMPT, temperature=0, max_new_tokens=10).text == greedy


def test_several_sequences_and_beams(steered):
    out = steered.generate(PROMPT, temperature=1.0, num_return_sequences=3, seed=0, max_new_tokens=4)
    assert len(out) == 3
    assert out[0].report.tokens_edited == 5
    assert steered.generate(PROMPT, steering=STRONG, num_beams=3, max_new_tokens=4).report.tokens_edited == 5


def test_chat_and_its_streams(steered):
    messages = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": PROMPT}]
    out = steered.chat(messages, steering=STRONG, max_new_tokens=6)
    assert out.report.tokens_edited == 5
    assert "".join(steered.stream_chat(messages, steering=STRONG, max_new_tokens=6)) == out.text
    assert asyncio.run(steered.achat(messages, steering=STRONG, max_new_tokens=6)).text == out.text
    ids = steered.tokenize_chat(messages).ids
    assert ids.count(steered.tokenizer.bos_token_id) == 1  # the template writes it, the tokenizer must not again
    assert steered.tokenize(TEXT).ids.count(steered.tokenizer.bos_token_id) == 1


def test_too_long_a_prompt_is_an_error_or_cut_where_asked(steered):
    long = "Ada lives in Lyon. " * 120 + PROMPT
    with pytest.raises(ContextLengthError, match=r"context of 512.*truncate='left'"):
        steered.generate(long, max_new_tokens=8)
    out = steered.generate(long, max_new_tokens=8, truncate="left")
    assert out.prompt_tokens == 504
    assert out.report.tokens_edited == 5
    early = PROMPT + " Ada lives in Lyon." * 120
    with pytest.raises(ContextLengthError, match="drop 5 highlighted tokens"):
        steered.generate(early, max_new_tokens=8, truncate="left")
    with pytest.raises(ContextLengthError, match="asked for"):
        steered.generate("Ada", max_new_tokens=600, truncate="left")


def test_highlights_without_a_bank_are_refused(qwen3, tokenizer, make_bank):
    bare = SteeredModel(qwen3, tokenizer)
    with pytest.raises(SteeringError, match=r"no bank.*steering=None"):
        bare.generate(PROMPT)
    assert bare.generate(PROMPT, steering=None, max_new_tokens=2).report.method == "none"
    assert bare.generate(TEXT, max_new_tokens=2).text


def test_a_bank_of_another_model_is_refused_at_once(qwen3, tokenizer, make_bank):
    from tiny import tiny_model

    with pytest.raises(BankError, match="another model"):
        SteeredModel(qwen3, tokenizer, bank=make_bank(tiny_model("llama")))


def test_loading(tmp_path, steered, tokenizer):
    steered.hf_model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    steered.bank.save(tmp_path / "b")
    again = SteeredModel.from_pretrained(str(tmp_path / "m"), bank=str(tmp_path / "b"), steering=STRONG)
    assert (
        again.generate(PROMPT, max_new_tokens=8).text
        == steered.generate(PROMPT, steering=STRONG, max_new_tokens=8).text
    )
    with pytest.raises(ModelNotFoundError, match="complete transformers model"):
        SteeredModel.from_pretrained(str(tmp_path / "b"))
    with pytest.raises(ModelNotFoundError, match=r"neither a folder here.*seka-demo"):
        SteeredModel.from_pretrained("nobody/nothing-here")


def test_a_device_is_named_and_seen_before_the_model_is_read(monkeypatch):
    assert SteeredModel.from_pretrained("seka-demo", device="cpu").hf_model.device.type == "cpu"
    assert SteeredModel.from_pretrained("seka-demo", device="meta", bank=None).hf_model.device.type == "meta"
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *a, **k: pytest.fail("read"))
    for device in ("gpu", "cuda:99"):
        with pytest.raises(SettingError, match=f"cannot run on the device '{device}'"):
            SteeredModel.from_pretrained("seka-demo", device=device)
    with pytest.raises(SettingError, match="give one of them"):
        SteeredModel.from_pretrained("seka-demo", device="cpu", device_map="auto")


@pytest.mark.parametrize("steering", ["off", "seka", False, 0.5, Seka])
def test_steering_that_is_no_method(steered, steering):
    for prompt in ("Ada lives in Lyon.", Prompt("Ada lives in Lyon.").highlight("Lyon")):
        with pytest.raises(SettingError, match="use 'auto', None, or a method"):
            steered.generate(prompt, steering=steering, max_new_tokens=1)


def test_a_method_without_highlights_is_told(steered):
    out = steered.generate("Ada lives in Lyon.", steering=Seka(gain=1.0), max_new_tokens=1)
    assert out.report.warnings == ["nothing is highlighted: the model runs unsteered"]
    assert not steered.generate("Ada lives in Lyon.", max_new_tokens=1).report.warnings


def test_truncation_that_does_not_exist(steered):
    with pytest.raises(SettingError, match="truncate='right'"):
        steered.generate("Ada", truncate="right", max_new_tokens=1)


@pytest.mark.parametrize("messages", ["hello", Prompt("hello"), [("user", "hello")]])
def test_what_is_no_conversation(steered, messages):
    with pytest.raises(TokenizationError, match="a conversation is a list"):
        steered.chat(messages, max_new_tokens=1)


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_no_connection_is_told_at_once(monkeypatch):
    """Without the many retries of the hub's client, which cannot help where nobody can be connected to."""
    from huggingface_hub import constants

    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        with pytest.raises(ModelNotFoundError, match="Check the name and the network"):
            SteeredModel.from_pretrained("nobody/nothing-here")
    assert waits == [1]
