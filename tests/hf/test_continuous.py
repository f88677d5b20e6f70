"""Continuous batching by transformers' own manager: requests packed into one row, split, evicted and prefilled again."""

import threading

import pytest
import torch
from oracle import edited_keys
from patience import PATIENCE
from tiny import random_bank, random_expert, tiny_model
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.requests import RequestState

from seka_rag import AdaSeka, ExpertBank, Seka, route, steer
from seka_rag.errors import SteeringError, UnsupportedModelError
from seka_rag.hf import taps
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.taps import tapped

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cheap_collections")]
STRONG = Seka(gain=2.0)
IDS = [[*range(30, 54)], [*range(60, 69)], [*range(90, 107)], [*range(200, 203)]]
MASKS = [[0.0] * len(ids) for ids in IDS]  # the second request has no highlight
for row, columns in {0: (0, 3, 17, 22), 2: (2, 16), 3: (1,)}.items():
    for column in columns:
        MASKS[row][column] = 1.0 if column != 17 else 0.5
MARKED = 7


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3_text", "phi3"])
def pair(request):
    model = tiny_model(request.param)
    return model, random_bank(model)


@pytest.fixture(scope="module")
def one():
    model = tiny_model("qwen3")
    return model, random_bank(model)


def settings(**changed):
    small = {"page_size": 8, "num_blocks": 32, "max_batch_tokens": 16, "allow_block_sharing": False}
    return ContinuousBatchingConfig(**{**small, "return_logprobs": True, **changed})


def generation(**changed):
    return GenerationConfig(**{"max_new_tokens": 5, "do_sample": False, "eos_token_id": -1, **changed})


def packed(model, ids=IDS, *, tokens=5, sequences=1, **changed):
    config = generation(max_new_tokens=tokens)
    config.num_return_sequences = sequences  # which ``generate`` refuses where it is greedy
    return [*model.generate_batch(ids, config, settings(**changed)).values()]


def single(model, bank, i, tokens=5, method=STRONG):
    """The answer to one request alone by ``generate``, and its log-probabilities."""
    ids = torch.tensor([IDS[i]])
    with steer(model, bank, torch.tensor([MASKS[i]]), method):
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            output_scores=True,
            return_dict_in_generate=True,
        )
    new = out.sequences[0, len(IDS[i]) :].tolist()
    return new, [float(s.log_softmax(-1)[0, token]) for s, token in zip(out.scores, new, strict=True)]


def same(outputs, model, bank, rows=range(4), tokens=5):
    for output, i in zip(outputs, rows, strict=True):
        answer, scores = single(model, bank, i, tokens)
        assert output.error is None
        assert output.generated_tokens == answer
        assert output.logprobs == pytest.approx(scores, abs=1e-5)


def untouched(model):
    return not taps._replaced and not any(
        {"forward", "init_continuous_batching"} & vars(m).keys() for m in model.modules()
    )


def test_answers_equal_those_of_single_steered_runs(pair):
    model, bank = pair
    plain = packed(model)
    for budget in (64, 16):  # all prompts in one pass, or in pieces; one batch after another
        with steer(model, bank, MASKS, STRONG) as report:
            outputs = packed(model, max_batch_tokens=budget)
        assert report.tokens_edited == report.tokens_marked == MARKED
        same(outputs, model, bank)
    assert untouched(model)
    assert outputs[1].logprobs == plain[1].logprobs  # bit for bit: no highlight, same batches
    assert all(outputs[i].logprobs != pytest.approx(plain[i].logprobs, abs=1e-3) for i in (0, 2, 3))
    again = packed(model)
    assert [o.logprobs for o in again] == [o.logprobs for o in plain]


def test_edited_keys_equal_the_oracle(one):
    model, bank = one
    sites, before, after = find_key_sites(model), [], []

    def record(into):
        return lambda _: [
            (m, lambda out, i=i: into.append((i, sites.read(out).clone()))) for i, m in sites.modules.items()
        ]

    with tapped(sites.decoder, record(before)), steer(model, bank, MASKS, STRONG):
        with tapped(sites.decoder, record(after)):
            packed(model, max_batch_tokens=64, tokens=1)
    weights = [w for mask in MASKS for w in mask]  # all four in one pass, in order
    assert len(before) == len(after) == 3
    for (layer, keys), (_, edited) in zip(before, after, strict=True):
        assert keys.shape[:2] == (1, len(weights))
        wanted = edited_keys(keys, [weights], bank.projection(layer), 2.0)
        assert torch.allclose(edited.double(), torch.from_numpy(wanted), atol=1e-4)
        unmarked = torch.tensor(weights) == 0
        assert torch.equal(edited[0, unmarked], keys[0, unmarked])


def test_an_evicted_request_is_prefilled_again_and_edited_again(one, monkeypatch):
    model, bank = one
    evicted, again = [], RequestState.create_equivalent_initial_request
    monkeypatch.setattr(
        RequestState, "create_equivalent_initial_request", lambda s: (evicted.append(s.request_id), again(s))[1]
    )
    with steer(model, bank, MASKS[:3], STRONG):
        outputs = packed(model, IDS[:3], tokens=20, num_blocks=8)
    assert "req_2" in evicted  # which has highlights
    same(outputs, model, bank, range(3), tokens=20)


def test_several_sequences_of_a_request(one):
    model, bank = one
    with steer(model, bank, MASKS, STRONG):
        outputs = packed(model, sequences=3)
    assert len(outputs) == 12
    same(outputs, model, bank, [i for i in range(4) for _ in range(3)])


def test_eager_attention_and_its_name_comes_back(one):
    model = tiny_model("qwen3")
    bank = random_bank(model)
    model.set_attn_implementation("eager")
    with steer(model, bank, MASKS, STRONG):
        outputs = packed(model)
    with pytest.raises(UnsupportedModelError, match="allow_block_sharing=False"), steer(model, bank, MASKS, STRONG):
        packed(model, allow_block_sharing=True)
    assert model.config._attn_implementation == "eager"
    same(outputs, model, bank)


@pytest.mark.parametrize("version", ["5.9.1", "5.25.0", "5.30.0.dev0", "6.0.0"])
def test_a_version_that_was_not_tested_is_refused_by_name(one, monkeypatch, version):
    model, bank = one
    monkeypatch.setattr("transformers.__version__", version)
    with pytest.raises(UnsupportedModelError, match=f"tested with transformers 5.20 .*this is {version}"):
        with steer(model, bank, MASKS, STRONG):
            packed(model)
    assert untouched(model)
    assert packed(model)  # unsteered it is nobody's business


def test_a_manager_of_ones_own_takes_requests_as_they_come(one):
    model, bank = one
    plain = packed(model)
    with steer(model, bank, MASKS[2:], STRONG) as report:
        with model.continuous_batching_context_manager(generation(), continuous_batching_config=settings()) as manager:
            thread = threading.Thread(target=manager.add_request, args=(IDS[0], "foreign"))  # not in this context
            thread.start()
            thread.join()
            manager.add_request(IDS[2], "first")
            results = [manager.get_result(timeout=PATIENCE) for _ in range(2)]
            manager.add_request(IDS[3], "second")
            results.append(manager.get_result(timeout=PATIENCE))
    outputs = {r.request_id: r for r in results}
    same([outputs["first"], outputs["second"]], model, bank, (2, 3))
    assert outputs["foreign"].generated_tokens == plain[0].generated_tokens
    assert report.tokens_edited == 3
    assert untouched(model)


def test_a_kept_manager_is_steered_in_each_block_and_plain_outside(one):
    model, bank = one
    plain = packed(model)

    def run():
        outputs = model.generate_batch(IDS, generation(), settings(), persistent_manager=True)
        return [*outputs.values()]

    try:
        for _ in range(2):
            with steer(model, bank, MASKS, STRONG):
                outputs = run()
            same(outputs, model, bank)
        assert [o.logprobs for o in run()] == [o.logprobs for o in plain]
    finally:
        model.destroy_cached_continuous_batching_manager()


def test_another_thread_is_not_steered_and_has_no_manager_beside(one):
    """Transformers changes the configuration of the model while a manager runs a pass, so two of them are not safe."""
    model, bank = one
    with torch.no_grad():
        plain = model(torch.tensor(IDS[:1])).logits
    seen = []

    def other():
        with torch.no_grad():
            seen.append(model(torch.tensor(IDS[:1])).logits)  # while the manager waits
        try:
            with steer(model, bank, MASKS[:1], STRONG):
                packed(model, IDS[:1])
        except UnsupportedModelError as error:
            seen.append(str(error))

    with steer(model, bank, MASKS[:1], STRONG):
        with model.continuous_batching_context_manager(generation(), continuous_batching_config=settings()) as manager:
            manager.add_request(IDS[0])
            result = manager.get_result(timeout=PATIENCE)
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
    assert torch.equal(seen[0], plain)
    assert "another manager of this model is open" in seen[1]
    same([result], model, bank, (0,))
    assert untouched(model)


def test_one_steering_inside_another(one):
    model, bank = one
    other = random_bank(model, seed=9)
    with steer(model, other, MASKS[:1], Seka(gain=0.5)), steer(model, bank, MASKS[:1], STRONG):
        together = packed(model, IDS[:1])
    with steer(model, other, torch.tensor(MASKS[:1]), Seka(gain=0.5)):
        same(together, model, bank, (0,))  # both again


def test_experts_are_chosen_by_an_earlier_pass(one):
    model, _ = one
    experts = ExpertBank({"a": random_expert(model, 1), "b": random_expert(model, 2, without=[(1, 0)])})
    method, routing = AdaSeka(gain=2.0), []
    for ids in IDS:
        routing.append(route(model, experts, method, torch.tensor([ids])))
    together = {layer: torch.cat([r[layer] for r in routing]) for layer in routing[0]}
    with steer(model, experts, MASKS, method, prepared=together) as report:
        outputs = packed(model)
    assert report.tokens_edited == MARKED
    for i, output in enumerate(outputs):
        with steer(model, experts, torch.tensor([MASKS[i]]), method, prepared=routing[i]):
            ids = torch.tensor([IDS[i]])
            wanted = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)
        assert output.generated_tokens == wanted[0, len(IDS[i]) :].tolist()
    with pytest.raises(UnsupportedModelError, match="prepared=method.prepare"), steer(model, experts, MASKS, method):
        packed(model)
    assert untouched(model)


def test_what_cannot_be_steered_is_refused(one):
    model, bank = one

    def refused(error, match, masks=MASKS, **changed):
        with pytest.raises(error, match=match), steer(model, bank, masks, STRONG):
            packed(model, **changed)
        assert untouched(model)

    refused(UnsupportedModelError, "allow_block_sharing=False", allow_block_sharing=True)
    refused(UnsupportedModelError, "use_cuda_graph=False", default_compile_level=1)
    refused(SteeringError, "request 2 has 9 tokens and its row of the mask 24", torch.ones(4, 24))
    refused(SteeringError, "request 4 of a batch whose mask has 3 rows", MASKS[:3])
    refused(SteeringError, "only 7 of 8 highlighted", [*MASKS, [1.0]])
    with pytest.raises(SteeringError, match="different lengths"), steer(model, bank, MASKS, STRONG):
        model.generate(torch.ones(4, 24, dtype=torch.long))
    with pytest.raises(SteeringError, match="one row of weights"), steer(model, bank, [[[1.0]]], STRONG):
        pass
    with model.continuous_batching_context_manager(generation(), continuous_batching_config=settings()) as manager:
        with pytest.raises(SteeringError, match="opened inside it"), steer(model, bank, MASKS[:1], STRONG):
            manager.add_request(IDS[0])
            manager.get_result(timeout=PATIENCE)
    with pytest.raises(SteeringError, match="still running when"), steer(model, bank, MASKS[:1], STRONG):
        manager = model.init_continuous_batching(generation(), settings())
        manager.start()
        manager.add_request(IDS[0])
        manager.get_result(timeout=PATIENCE)
    assert not manager.is_running()
    assert untouched(model)


def test_an_exception_stops_what_was_opened_and_leaves_nothing(one):
    model, bank = one
    plain = packed(model)
    with pytest.raises(ZeroDivisionError), steer(model, bank, MASKS, STRONG):
        manager = model.init_continuous_batching(generation(max_new_tokens=10_000), settings())
        manager.start()
        manager.add_requests(IDS)
        raise ZeroDivisionError
    assert not manager.is_running()
    assert untouched(model)
    assert not {"_run_generation_loop"} & vars(manager).keys()
    with pytest.raises(KeyboardInterrupt), steer(model, bank, MASKS, STRONG):
        packed(model)
        raise KeyboardInterrupt
    assert [o.logprobs for o in packed(model)] == [o.logprobs for o in plain]


def test_an_error_in_the_managers_thread_reaches_the_caller(one):
    model, bank = one

    def fail(_):
        raise SteeringError("in the thread")

    with pytest.raises(SteeringError, match="in the thread"), steer(model, bank, MASKS, STRONG):
        with tapped(find_key_sites(model).decoder, fail):
            packed(model)
    assert untouched(model)
