"""Steering in every way of running a model, against one plain forward pass or against single runs."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import modes
import pytest
import torch
from modes import IDS, MASK, MODES, SHOWN, model_and_bank
from oracle import edited_keys
from tiny import random_bank, tiny_model
from transformers import DynamicCache, StaticCache

from seka_rag import KeyBias, Prompt, Seka, steer
from seka_rag.errors import GenerationTimeoutError, SteeringError, UnsupportedModelError
from seka_rag.hf import taps
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import recording

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cheap_collections")]
STRONG = modes.STRONG
BIASED = {form: KeyBias(form=form, bias=3.0, distances=(1, 24)) for form in ("constant", "mean", "request")}


@cache
def outcome(family, mode):
    """With SEKA, the usual method."""
    return modes.outcome(family, mode)


def attached(model):
    return sum("forward" in vars(m) for m in model.modules()) + len(taps._replaced)


def logits(model, bank, ids=IDS, mask=MASK, method=STRONG, **inputs):
    with torch.no_grad(), steer(model, bank, mask, method):
        return model(ids, **inputs).logits


@pytest.mark.parametrize("family", SHOWN)
def test_every_mode_of_the_table(family):
    page = modes.PAGE.read_text(encoding="utf-8")
    columns = next(line for line in page.splitlines() if line.startswith("| | llama")).split(" | ")
    for mode in MODES:
        row = next(line for line in page.splitlines() if line.startswith(f"| {mode} |"))
        said = row.split(" | ")[[c.strip(" |") for c in columns].index(family)]
        assert outcome(family, mode) == said.strip(" |"), (mode, "run python tests/modes.py")
    assert attached(model_and_bank(family)[0]) == 0


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3", "lfm2"])
@pytest.mark.parametrize("form", BIASED)
def test_key_bias_in_every_mode_or_refused(family, form):
    for mode in [*MODES, modes.CONTINUOUS]:
        wanted = outcome(family, mode)
        whole = "chunked" not in mode and (form != "request" or mode != modes.CONTINUOUS)
        if form == "constant" or whole or wanted != "yes":
            assert modes.outcome(family, mode, BIASED[form]) == wanted, mode
        else:
            with pytest.raises((SteeringError, UnsupportedModelError), match="chunks|in pieces"):
                modes.outcome(family, mode, BIASED[form])
    assert attached(model_and_bank(family)[0]) == 0


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "mistral"])
def test_padded_batches_equal_single_rows(family, side):
    model, bank = model_and_bank(family)
    lengths = (24, 9, 17)
    rows = [torch.arange(30 + 40 * i, 30 + 40 * i + n) for i, n in enumerate(lengths)]
    ids, attention, mask = (torch.zeros(3, 24, dtype=torch.long) for _ in range(3))
    for i, row in enumerate(rows):
        where = slice(24 - len(row), 24) if side == "left" else slice(0, len(row))
        ids[i, where], attention[i, where] = row, 1
        if i != 1:  # the second row has no highlight
            mask[i, where][1:4] = 1
    positions = (attention.cumsum(-1) - 1).clamp_min(0)
    batch = logits(model, bank, ids, mask, attention_mask=attention, position_ids=positions)
    for i, row in enumerate(rows):
        single_mask = mask[i][attention[i] == 1][None]
        single = logits(model, bank, row[None], single_mask)
        assert torch.allclose(batch[i][attention[i] == 1], single[0], atol=3e-4)
        if i == 1:
            with torch.no_grad():
                plain = model(ids, attention_mask=attention, position_ids=positions).logits
            assert torch.equal(batch[i][attention[i] == 1], plain[i][attention[i] == 1])


@pytest.mark.parametrize("length", [1, 2, 4])  # 2 key-value heads, 4 query heads
def test_short_prompts_are_edited_at_the_right_tokens(length):
    model, bank = model_and_bank("qwen3")
    ids, mask = IDS[:, :length], torch.zeros(1, length)
    mask[0, -1] = 0.7
    sites = find_key_sites(model)
    with torch.no_grad(), recording(sites) as before, steer(model, bank, mask, STRONG), recording(sites) as after:
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False)
    for layer in sites.modules:
        wanted = edited_keys(before[layer], mask.tolist(), bank.projection(layer), 2.0)
        assert torch.allclose(after[layer].double(), torch.from_numpy(wanted), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_edited_in_float32_and_rounded_once(dtype):
    model = tiny_model("qwen3").to(dtype)
    bank, sites = random_bank(model), find_key_sites(model)
    with torch.no_grad(), recording(sites) as before, steer(model, bank, MASK, STRONG), recording(sites) as after:
        model(IDS)
    for layer, keys in after.items():
        wanted = torch.from_numpy(edited_keys(before[layer], MASK.tolist(), bank.projection(layer), 2.0))
        assert keys.dtype == dtype
        assert torch.allclose(keys.double(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
        assert torch.equal(keys[MASK == 0], before[layer][MASK == 0])


def test_gradients_go_through_the_edit_and_training_mode_is_steered():
    model = tiny_model("qwen3")
    bank = random_bank(model)
    with torch.inference_mode():  # what is kept from here must not spoil gradients
        logits(model, bank)
    model.train()
    weight = model.model.layers[0].self_attn.k_proj.weight

    def loss():
        with steer(model, bank, MASK, STRONG):
            return model(IDS).logits.double().square().mean()

    loss().backward()
    assert torch.allclose(loss().float(), logits(model.eval(), bank).square().mean(), rtol=1e-4)
    step = 3e-4 * torch.nn.functional.normalize(weight.grad.flatten(), dim=0).view_as(weight)
    with torch.no_grad():
        weight += step
        above = loss()
        weight -= 2 * step
        below = loss()
    assert float(above - below) == pytest.approx(float(2 * (weight.grad * step).sum()), rel=0.02)
    model.train()
    model.gradient_checkpointing_enable()
    with pytest.raises(UnsupportedModelError, match="gradient_checkpointing_disable"), steer(model, bank, MASK, STRONG):
        model(IDS)
    assert torch.isfinite(logits(model, bank)).all()  # without gradients nothing is computed twice
    assert attached(model) == 0


@pytest.mark.parametrize(
    ("how", "first"),
    [("forward", "plain"), ("model", "plain"), ("layers", "plain"), ("generate", "plain"), ("generate", "steered")],
)
def test_compiled_models(how, first):
    torch._dynamo.reset()
    model = tiny_model("qwen3", num_hidden_layers=2)
    bank, graphs = random_bank(model), []
    plain, wanted = logits(model, bank, method=Seka(gain=0.0)), logits(model, bank)

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    target = model
    if how == "forward":
        model.forward = torch.compile(model.forward, backend=backend)
    elif how == "model":
        target = torch.compile(model, backend=backend)
    elif how == "layers":
        for layer in model.model.layers:
            layer.compile(backend=backend)

    def run(steered):
        method = STRONG if steered else Seka(gain=0.0)
        if how != "generate":
            return logits(target, bank, method=method)
        from transformers import CompileConfig

        compiled = CompileConfig(backend=backend, mode=None)
        compiled._compile_all_devices = True
        with torch.no_grad(), steer(model, bank, MASK, method):
            out = model.generate(
                IDS,
                attention_mask=torch.ones_like(IDS),
                cache_implementation="static",
                compile_config=compiled,
                max_new_tokens=4,
                do_sample=False,
                eos_token_id=None,
                output_logits=True,
                return_dict_in_generate=True,
            )
        return torch.stack([IDS[0].new_zeros(1, 1500).float()] * 23 + [out.logits[0]], 1)

    results = {steered: (wanted if steered else plain) for steered in (True, False)}
    order = [False, True, False, True, True] if first == "plain" else [True, False, True, False]
    counts = []
    for steered in order:
        assert torch.allclose(run(steered)[:, -1], results[steered][:, -1], atol=1e-4)
        counts.append(len(graphs))
    assert graphs
    assert counts[-1] == counts[-2], "a further call compiles nothing"
    torch._dynamo.reset()


def test_inductor_with_a_static_cache():
    """The default backend of ``torch.compile``, which needs a C++ compiler on the CPU."""
    torch._dynamo.reset()
    from transformers import CompileConfig

    model = tiny_model("qwen3", num_hidden_layers=1)
    bank, compiled = random_bank(model), CompileConfig(mode=None)
    compiled._compile_all_devices = True

    def run(steered, **how):
        with steer(model, bank, MASK, Seka(gain=2.0 if steered else 0.0)):
            out = model.generate(
                IDS,
                attention_mask=torch.ones_like(IDS),
                cache_implementation="static",
                max_new_tokens=4,
                do_sample=False,
                eos_token_id=None,
                output_logits=True,
                return_dict_in_generate=True,
                **how,
            )
        return torch.cat(out.logits)

    eager = {steered: run(steered, disable_compile=True) for steered in (True, False)}
    assert not torch.allclose(eager[True], eager[False], atol=0.1)
    for steered in (True, True, False, True):
        assert torch.allclose(run(steered, compile_config=compiled), eager[steered], atol=1e-5)
    assert torch._dynamo.utils.counters["inductor"]
    assert attached(model) == 0
    torch._dynamo.reset()


def test_lora_is_steered_and_learned_tokens_are_refused():
    peft = pytest.importorskip("peft")
    model = tiny_model("qwen3")
    bank = random_bank(model)
    config = peft.LoraConfig(target_modules=["k_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    lora = peft.get_peft_model(model, config).eval()
    bank = random_bank(lora)
    steered, plain = logits(lora, bank), logits(lora, bank, method=Seka(gain=0.0))
    assert not torch.allclose(steered, plain, atol=1e-2)
    with torch.no_grad(), recording(find_key_sites(lora)) as before, steer(lora, bank, MASK, STRONG):
        with recording(find_key_sites(lora)) as after:
            lora.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=1, do_sample=False)
    for layer, keys in after.items():
        wanted = edited_keys(before[layer], MASK.tolist(), bank.projection(layer), 2.0)
        assert torch.allclose(keys.double(), torch.from_numpy(wanted), atol=1e-4)
    merged = lora.merge_and_unload()
    assert torch.allclose(logits(merged, bank), steered, atol=1e-3)

    tuned = peft.get_peft_model(
        tiny_model("qwen3"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    with (
        pytest.raises(UnsupportedModelError, match="learned tokens before the prompt"),
        steer(tuned, bank, MASK, STRONG),
    ):
        pass


@pytest.mark.parametrize("kind", ["torchao", "quanto"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_quantised_weights_are_steered_where_the_float_model_is(kind, family):
    model = tiny_model(family)
    bank = random_bank(model)
    if kind == "torchao":
        quantization = pytest.importorskip("torchao.quantization")
        quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    else:
        quanto = pytest.importorskip("optimum.quanto")
        quanto.quantize(model, weights=quanto.qint8)
        quanto.freeze(model)
    sites = find_key_sites(model)
    with torch.no_grad(), recording(sites) as before, steer(model, bank, MASK, STRONG), recording(sites) as after:
        model(IDS)
    for layer, keys in after.items():
        wanted = edited_keys(before[layer], MASK.tolist(), bank.projection(layer), 2.0)
        assert torch.allclose(keys.double(), torch.from_numpy(wanted), atol=1e-4)


@pytest.mark.parametrize("where", ["cpu_offload", "disk_offload"])
def test_offloaded_weights(where, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = tiny_model("qwen3")
    bank, wanted = random_bank(model), logits(*model_and_bank("qwen3"))
    folder = [str(tmp_path)] if where == "disk_offload" else []
    getattr(accelerate, where)(model, *folder, execution_device=torch.device("cpu"))
    own = attached(model)
    assert torch.allclose(logits(model, bank), wanted, atol=1e-4)
    assert attached(model) == own  # the hooks of accelerate are back


def test_layers_that_are_kept_in_different_places(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = tiny_model("qwen3")
    bank, wanted = random_bank(model), logits(*model_and_bank("qwen3"))
    places = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.norm", "lm_head"), "cpu")
    places |= dict.fromkeys(("model.layers.1", "model.layers.2"), "disk")
    accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    own = attached(model)
    assert model.model.layers[1].self_attn.k_proj.weight.device.type == "meta"
    assert torch.equal(logits(model, bank), wanted)
    assert attached(model) == own


def test_steering_inside_steering_edits_in_order():
    model, bank = model_and_bank("qwen3")
    other, sites = random_bank(model, seed=9), find_key_sites(model)
    second = MASK.roll(1, 1) + MASK
    with torch.no_grad(), recording(sites) as before, steer(model, bank, MASK, STRONG), recording(sites) as between:
        with steer(model, other, second, Seka(gain=0.5)), recording(sites) as after:
            model(IDS)
    for layer in sites.modules:
        once = edited_keys(before[layer], MASK.tolist(), bank.projection(layer), 2.0)
        assert torch.allclose(between[layer].double(), torch.from_numpy(once), atol=1e-4)
        twice = edited_keys(between[layer], second.tolist(), other.projection(layer), 0.5)
        assert torch.allclose(after[layer].double(), torch.from_numpy(twice), atol=1e-4)


def test_sixty_four_threads_at_once_equal_their_single_runs():
    model, bank = model_and_bank("qwen3")
    plain = logits(model, bank, method=Seka(gain=0.0))
    together_now = threading.Barrier(64, timeout=120)

    def run(i, wait=False):
        mask = torch.zeros(1, 24)
        mask[0, i % 20 : i % 20 + 3] = 1 + i % 3
        if wait:
            together_now.wait()
        if i % 8 == 0:
            with torch.no_grad():
                return model(IDS).logits
        if i % 8 == 1:  # one that fails
            with pytest.raises(ZeroDivisionError), steer(model, bank, mask, STRONG):
                raise ZeroDivisionError
        with torch.no_grad(), steer(model, bank, mask, Seka(gain=0.1 * i)):
            cache, parts = DynamicCache(), []
            for piece in IDS.split(6, dim=1):
                parts.append(model(piece, past_key_values=cache).logits)
            return torch.cat(parts, 1)

    alone = [run(i) for i in range(64)]
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(lambda i: run(i, wait=True), range(64)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert torch.equal(alone[0], plain)
    assert attached(model) == 0


def test_an_abandoned_generator_leaves_nothing():
    model, bank = model_and_bank("qwen3")
    plain = logits(model, bank, method=Seka(gain=0.0))

    def pieces():
        with torch.no_grad(), steer(model, bank, MASK, STRONG):
            yield model(IDS).logits

    started = [pieces() for _ in range(3)]
    assert not torch.equal(next(started[0]), plain)
    next(started[1])
    thread = threading.Thread(target=started[1].close)  # ended by another thread
    thread.start()
    thread.join()
    del started, thread
    gc.collect()
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, plain)
    assert attached(model) == 0


def test_assisted_by_its_own_first_layers():
    model, bank = model_and_bank("qwen3")
    options = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    layers = model.config.num_hidden_layers
    with torch.no_grad():
        plain = model.generate(IDS, **options)
    with steer(model, bank, MASK, STRONG):
        wanted = model.generate(IDS, **options)
    with steer(model, bank, MASK, STRONG) as report:
        early = model.generate(IDS, assistant_early_exit=2, **options)
    assert torch.equal(early, wanted)
    assert not torch.equal(wanted, plain)
    assert report.tokens_edited == 5
    assert (attached(model), model.config.num_hidden_layers) == (0, layers)
    assert torch.equal(model.generate(IDS, **options), plain)
    assert torch.equal(model.generate(IDS, assistant_early_exit=2, **options), plain)


def test_the_time_runs_out_in_a_steered_call(steered):
    model, bank = model_and_bank("qwen3")
    options = {"attention_mask": torch.ones_like(IDS), "do_sample": False, "eos_token_id": None}
    with torch.no_grad():
        plain = model.generate(IDS, max_new_tokens=4, **options)
    with steer(model, bank, MASK, STRONG) as report:
        cut = model.generate(IDS, max_new_tokens=400, max_time=0.05, **options)
    assert 24 < cut.shape[1] < 424
    assert report.tokens_edited == 5
    with steer(model, bank, MASK, STRONG):
        assert torch.equal(model.generate(IDS, max_new_tokens=cut.shape[1] - 24, **options), cut)
    assert attached(model) == 0
    assert torch.equal(model.generate(IDS, max_new_tokens=4, **options), plain)

    prompt = Prompt("Alec moved to Lyon.").highlight("Lyon")
    before = steered.generate(prompt, max_new_tokens=4).text
    with pytest.raises(GenerationTimeoutError):
        steered.generate(prompt, max_new_tokens=400, timeout=0.02)
    assert attached(steered.hf_model) == 0
    assert steered.generate(prompt, max_new_tokens=4).text == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="the caches run there")
@pytest.mark.parametrize("cache", ["offloaded", "offloaded_static"])
def test_offloaded_caches_do_not_run_without_a_gpu(cache):
    model, bank = model_and_bank("qwen3")
    with pytest.raises((AssertionError, RuntimeError), match="CUDA|NVIDIA"), steer(model, bank, MASK, STRONG):
        model.generate(IDS, cache_implementation=cache, max_new_tokens=2)
    assert attached(model) == 0


def test_caches_that_are_used_again():
    model, bank = model_and_bank("qwen3")
    whole = logits(model, bank)
    cache = StaticCache(config=model.config, max_cache_len=40)
    with torch.no_grad(), steer(model, bank, MASK, STRONG):
        for _ in range(2):  # the same prompt twice in one ``with``
            cache.reset()
            again = model(IDS, past_key_values=cache).logits
            for token in (33, 34):
                model(torch.tensor([[token]]), past_key_values=cache)
            assert torch.allclose(again, whole, atol=1e-4)
    with torch.no_grad(), steer(model, bank, torch.nn.functional.pad(MASK, (0, 6)), STRONG):
        cache = DynamicCache()
        model(torch.cat([IDS, IDS[:, :6]], 1), past_key_values=cache)  # speculation ran on, and is taken back
        cache.crop(-6 - 4)  # into the prompt, whose last tokens come again
        again = model(IDS[:, -4:], past_key_values=cache).logits
    assert torch.allclose(again, whole[:, -4:], atol=1e-4)


def test_decoding_reads_no_static_cache_and_taps_no_layer(monkeypatch):
    model, bank = model_and_bank("qwen3")
    reads = []
    monkeypatch.setattr(torch.Tensor, "__int__", lambda t, own=torch.Tensor.__int__: (reads.append(1), own(t))[1])

    def decode(steered):
        cache, mask = StaticCache(config=model.config, max_cache_len=40), MASK if steered else MASK * 0
        with torch.no_grad(), steer(model, bank, mask, STRONG):
            model(IDS, past_key_values=cache)
            reads.clear()
            for token in (33, 34, 35):
                model(torch.tensor([[token]]), past_key_values=cache)
                assert (
                    attached(model) == 4 * steered
                )  # the decoder, its entry, continuous batching and assisted decoding
            return len(reads)  # before the report is made

    decode(False)  # what is read once in a process
    assert decode(True) == decode(False)


def test_what_cannot_be_steered_is_refused():
    model, bank = model_and_bank("qwen3")
    options = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 4, "do_sample": False}
    with pytest.raises(SteeringError, match="guidance_scale"), steer(model, bank, MASK, STRONG):
        model.generate(IDS, guidance_scale=1.5, **options)
    with pytest.raises(UnsupportedModelError, match="Continuous batching"), steer(model, bank, MASK, STRONG):
        model.model(IDS, cache=object())
    with pytest.raises(UnsupportedModelError, match="tuple"), steer(model, bank, MASK, STRONG):
        model.model(IDS, None, None, ((IDS, IDS),))
    with pytest.raises(SteeringError, match="input_ids or inputs_embeds"), steer(model, bank, MASK, STRONG):
        model.model()
    assert attached(model) == 0


def test_plans_are_kept_and_inputs_may_come_by_place_or_as_embeddings():
    model, bank = model_and_bank("qwen3")
    from seka_rag.steering.plans import plan

    sites, other = find_key_sites(model), find_key_sites(tiny_model("qwen3"))
    edits = plan(Seka(gain=0.3), bank, sites)
    assert edits is plan(Seka(gain=0.3), bank, find_key_sites(model))
    assert edits is not plan(Seka(gain=0.3), random_bank(model), sites)
    assert edits is not plan(Seka(gain=0.3), bank, other)
    cpu, edit = torch.device("cpu"), edits[0]
    assert edit.to(cpu) is edit.to(cpu)
    with torch.no_grad(), steer(model, bank, MASK, STRONG):
        hidden = model.model(inputs_embeds=model.get_input_embeddings()(IDS)).last_hidden_state
        by_place = model.model(IDS, torch.ones_like(IDS), None, DynamicCache()).last_hidden_state
    assert torch.allclose(model.lm_head(hidden), logits(model, bank), atol=1e-4)
    assert torch.allclose(by_place, hidden, atol=1e-4)
