"""Fading: after some tokens of the answer the cache is as without the edit, in the edited places, and elsewhere as it was."""

from functools import partial

import modes
import pytest
import torch
from modes import IDS, MASK, MODES, model_and_bank
from tiny import FAMILIES, random_bank, random_expert, tiny_model
from transformers import DynamicCache, StaticCache

from seka_rag import AdaSeka, ExpertBank, KeyBias, KeyScaling, Prompt, Seka, SteeredModel, steer
from seka_rag.errors import SteeringError, UnsupportedModelError
from seka_rag.hf import taps
from seka_rag.hf.find import find_key_sites
from seka_rag.steering.key_editing import Prepared

pytestmark = pytest.mark.slow  # as a whole
SHORT = torch.arange(30, 30 + 2 * 7).view(2, 7)  # shorter than the sliding windows
MARKED = torch.zeros(2, 7)
MARKED[0, [0, 3]], MARKED[1, 5] = 1, 0.5
TOKENS = torch.tensor([[40, 50], [41, 51], [42, 52], [43, 53], [44, 54]])  # what is generated, step by step


def caches(model, tokens, method=None, bank=None, mask=MARKED, ids=SHORT, kind=DynamicCache, **given):
    """The keys of all layers after the prompt and after each of some tokens: ``[step][layer]``; None without attention."""
    options = {"max_cache_len": 40} if kind is StaticCache else {}
    cache, steps = kind(config=model.config, **options), []

    def keep():
        found = [getattr(layer, "keys", None) for layer in cache.layers]
        steps.append([k.clone() if isinstance(k, torch.Tensor) else None for k in found])

    def run():
        with torch.no_grad():
            model(ids, past_key_values=cache)
            keep()
            for token in tokens:
                model(token[:, None], past_key_values=cache)
                keep()

    if method is None:
        run()
    else:
        with steer(model, bank, mask, method, **given) as report:
            run()
        assert report.tokens_edited == report.tokens_marked
    return steps, cache


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"minimax"}))  # which takes a cache of its own only
def test_the_original_keys_are_back_after_so_many_tokens(family):
    model = tiny_model(family)
    layer = min(find_key_sites(model).modules)  # the first one that is steered gets the same input as without
    bank = random_bank(model, layers=[layer])
    plain, _ = caches(model, TOKENS)
    steered, _ = caches(model, TOKENS, Seka(gain=2.0), bank)
    faded, _ = caches(model, TOKENS, Seka(gain=2.0, fade=3), bank)
    n = SHORT.shape[1]
    experts = any("expert" in name for name, _ in model.named_modules())  # tokens of all rows share their products
    same = partial(torch.allclose, atol=1e-5) if experts else torch.equal
    for step in range(3):  # the prompt gives the first token; two more come with the edit in place
        assert all(same(a, b) for a, b in zip(faded[step], steered[step], strict=True) if a is not None)
        assert not torch.allclose(faded[step][layer], plain[step][layer], atol=1e-3)
    for step in range(3, 6):
        assert torch.allclose(faded[step][layer], plain[step][layer], rtol=1e-4, atol=1e-5)
        dropped = n + step - faded[step][layer].shape[-2]  # by a sliding window
        rows, columns = (torch.nn.functional.pad(MARKED, (0, step)) == 0)[:, dropped:].nonzero(as_tuple=True)
        assert same(faded[step][layer][rows, :, columns], steered[step][layer][rows, :, columns])


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mistral", "phi3", "lfm2"])
def test_every_layer_gets_its_own_keys_back_in_either_cache(family, kind):
    """Also where a sliding window (of 8 tokens) has moved past some highlights."""
    model, bank = model_and_bank(family)
    tokens = torch.arange(60, 66)[:, None]
    given = {"mask": MASK, "ids": IDS, "kind": kind}
    steered, _ = caches(model, tokens[:1], Seka(gain=2.0), bank, **given)
    faded, cache = caches(model, tokens[:1], Seka(gain=2.0, fade=1), bank, **given)
    originals = unedited(model, bank, IDS, MASK)
    for layer in find_key_sites(model).modules:
        held, changed = faded[1][layer], 0
        at = cache.layers[layer]
        total = IDS.shape[1] + 1
        dropped = max(0, total - held.shape[-2]) if at.is_sliding else 0
        for column in MASK[0].nonzero().flatten().tolist():
            if column >= dropped:
                changed += 1
                assert torch.allclose(
                    held[0, :, column - dropped], originals[layer][0, :, column], rtol=1e-4, atol=1e-5
                )
        assert changed == sum(c >= dropped for c in [0, 3, 4, 17, 22])
        still = [c - dropped for c in range(dropped, total - 1) if MASK[0, c] == 0]
        assert torch.equal(held[:, :, still], steered[1][layer][:, :, still])


def unedited(model, bank, ids, mask):
    """Layer -> the keys of a steered pass without this layer's edit, after the model's own rotation ``[B, H, T, D]``.

    One layer is left out of the edit at a time: its keys then are those that fading should put back.
    """
    found = {}
    for layer in bank.layers:
        others = tuple(i for i in bank.layers if i != layer)
        cache = DynamicCache()  # without a configuration nothing slides
        with torch.no_grad(), steer(model, bank, mask, Seka(gain=2.0, layers=others)):
            model(ids, past_key_values=cache) if model.config.model_type != "lfm2" else None
            if model.config.model_type == "lfm2":
                cache = model(ids, use_cache=True).past_key_values
        found[layer] = cache.layers[layer].keys
    return found


@pytest.mark.parametrize("method", [KeyScaling(gain=1.0, fade=2), KeyBias(form="request", fade=2), AdaSeka(fade=2)])
def test_every_key_edit_can_fade(method):
    model = tiny_model("qwen3")
    if isinstance(method, AdaSeka):
        bank = ExpertBank({"a": random_expert(model, 1), "b": random_expert(model, 2)})
    else:
        bank = random_bank(model)
    method = method.model_copy(update={"layers": (0,)})
    plain, _ = caches(model, TOKENS)
    faded, _ = caches(model, TOKENS, method, bank)
    assert not torch.allclose(faded[1][0][:, :, :7], plain[1][0][:, :, :7], atol=1e-3)
    assert torch.allclose(faded[2][0][:, :, :7], plain[2][0][:, :, :7], atol=1e-5)


def test_chunks_and_half_precision():
    model, bank = model_and_bank("qwen3")
    whole, _ = caches(model, [], Seka(gain=2.0, layers=(0,)), bank)
    cache = DynamicCache()
    with torch.no_grad(), steer(model, bank, MARKED, Seka(gain=2.0, layers=(0,), fade=1)):
        for piece in SHORT.split(3, 1):
            model(piece, past_key_values=cache)
        assert torch.allclose(cache.layers[0].keys, whole[0][0], atol=1e-5)
        model(TOKENS[0][:, None], past_key_values=cache)
    assert torch.allclose(cache.layers[0].keys[:, :, :7], caches(model, [])[0][0][0], atol=1e-5)
    half = tiny_model("qwen3").to(torch.bfloat16)
    faded, _ = caches(half, TOKENS[:1], Seka(gain=2.0, layers=(0,), fade=1), bank)
    plain, _ = caches(half, TOKENS[:1])
    assert torch.allclose(faded[1][0].float(), plain[1][0].float(), rtol=1e-2, atol=1e-2)


def test_padded_rows_have_their_own_positions():
    model = tiny_model("llama")
    bank = random_bank(model, layers=[0])
    ids, attention = SHORT.clone(), torch.ones(2, 7, dtype=torch.long)
    ids[1, :3], attention[1, :3] = 0, 0
    positions = (attention.cumsum(-1) - 1).clamp_min(0)

    def run(method):
        cache = DynamicCache()
        with torch.no_grad(), steer(model, bank, MARKED, method):
            model(ids, attention_mask=attention, position_ids=positions, past_key_values=cache)
            longer = torch.nn.functional.pad(attention, (0, 1), value=1)
            model(TOKENS[0][:, None], attention_mask=longer, position_ids=positions[:, -1:] + 1, past_key_values=cache)
        return cache.layers[0].keys

    assert torch.allclose(run(Seka(gain=2.0, fade=1)), run(Seka(gain=0.0)), atol=1e-5)


@pytest.mark.parametrize(
    "mode", ["greedy", "sampling, several sequences", "beam search", "static cache", "chunked prefill"]
)
def test_generate_in_many_modes(mode):
    model, bank = model_and_bank("qwen3")
    given = MODES[mode](model)
    options = {
        "max_new_tokens": 5,
        "do_sample": False,
        "eos_token_id": None,
        "attention_mask": torch.ones_like(IDS),
        **given,
    }
    options["return_dict_in_generate"] = True
    plain = caches(model, [], ids=IDS, mask=MASK)[0][0][0]

    def run(method):
        torch.manual_seed(0)
        with torch.no_grad(), steer(model, bank, MASK, method):
            return model.generate(IDS, **options)

    unfaded = run(Seka(gain=2.0, layers=(0,)))
    for fade, back in ((2, True), (4, True), (5, False)):  # the fifth token is the last, so nothing comes after it
        out = run(Seka(gain=2.0, layers=(0,), fade=fade))
        keys = out.past_key_values.layers[0].keys[:, :, : IDS.shape[1]]
        assert torch.allclose(keys, plain.expand_as(keys), atol=1e-5) == back
        if mode != "beam search":  # whose earlier tokens may change with later ones
            same = IDS.shape[1] + fade
            assert torch.equal(out.sequences[:, :same], unfaded.sequences[:, :same])
    assert "reorder_cache" not in vars(out.past_key_values)
    assert not taps._replaced


def over(answer):
    return 99 in answer


def test_rows_whose_sentences_end_at_different_times():
    model = tiny_model("qwen3")
    bank = random_bank(model, layers=[0])
    tokens = torch.tensor([[40, 50], [99, 51], [42, 52], [43, 99], [44, 54]])
    plain, _ = caches(model, tokens)
    faded, _ = caches(model, tokens, Seka(gain=2.0, fade="sentence"), bank, prepared=Prepared(None, over))
    for row, first in ((0, 2), (1, 4)):
        for step in range(6):
            equal = torch.allclose(faded[step][0][row, :, :7], plain[step][0][row, :, :7], atol=1e-5)
            assert equal == (step >= first), (row, step)


def test_beams_that_change_places_keep_their_sentences():
    model = tiny_model("qwen3")
    bank = random_bank(model, layers=[0])
    method, cache = Seka(gain=2.0, fade="sentence"), DynamicCache()
    ids, mask = SHORT[:1].expand(3, -1), MARKED[:1]
    with torch.no_grad():
        plain = model(SHORT[:1]).past_key_values.layers[0].keys
        with steer(model, bank, mask, method, prepared=Prepared(None, over)):
            model(ids, past_key_values=cache)
            model(torch.tensor([[40], [99], [42]]), past_key_values=cache)  # the second is over
            cache.reorder_cache(torch.tensor([1, 0, 1]))
            model(torch.tensor([[43], [44], [45]]), past_key_values=cache)
            back = [torch.allclose(cache.layers[0].keys[i, :, :7], plain[0], atol=1e-5) for i in range(3)]
            assert back == [True, False, True]
            model(torch.tensor([[43], [99], [45]]), past_key_values=cache)
            assert torch.allclose(cache.layers[0].keys[:, :, :7], plain.expand(3, -1, -1, -1), atol=1e-5)
    assert "reorder_cache" not in vars(cache)


def test_steered_models_read_the_answer(steered, qwen3):
    prompt = Prompt("Ada moved to Lyon last year. Where does Ada live?").highlight("moved to Lyon")
    for fade in (1, 3, "sentence"):
        method = Seka(gain=4.0, fade=fade)
        out = steered.generate(prompt, steering=method, max_new_tokens=6)
        assert out.report.tokens_edited == out.report.tokens_marked > 0
        assert "".join(steered.stream(prompt, steering=method, max_new_tokens=6)) == out.text
        assert steered.generate([prompt, "Who?"], steering=method, max_new_tokens=6)[0].text == out.text
    long = {"max_new_tokens": 12}
    assert (
        steered.generate(prompt, steering=Seka(gain=4.0, fade=1), **long).text
        != steered.generate(prompt, steering=Seka(gain=4.0), **long).text
    )


def test_the_end_of_a_sentence_is_that_of_the_text(tokenizer):
    from seka_rag.steering.key_editing import _first_sentence_is_over

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    for text, done in (
        ("Ada lives in Lyon", False),
        ("Ada lives in Lyon.", False),
        ("Ada lives in Lyon. Robert", True),
        ("\n\nAda lives", False),
        ("Ada lives\nRobert", True),
    ):
        assert _first_sentence_is_over(tokenizer, ids(text)) == done, text


@pytest.mark.parametrize(
    ("mode", "error", "says"),
    [
        ("no cache", SteeringError, "computed again for each token"),
        ("prompt lookup", SteeringError, "several at once"),
        ("assisted by itself", SteeringError, "several at once"),
        ("quantised cache (quanto)", UnsupportedModelError, "QuantizedCache"),
        (modes.CONTINUOUS, UnsupportedModelError, "in blocks"),
    ],
)
def test_where_it_cannot_be_done_it_is_refused(mode, error, says):
    with pytest.raises(error, match=says):
        modes.outcome("llama", mode, Seka(gain=2.0, fade=2))


def test_guesses_and_caches_of_other_kinds_are_refused():
    model, bank = model_and_bank("qwen3")
    with torch.no_grad(), steer(model, bank, torch.ones(1, 8), Seka(gain=2.0, fade=2)):
        cache = DynamicCache()
        model(SHORT[:1, :4].repeat(1, 2), past_key_values=cache)
        with pytest.raises(SteeringError, match="several at once"):
            model(TOKENS[:2, :1].T, past_key_values=cache)
        with pytest.raises(SteeringError, match="several at once"):
            model.generate(torch.arange(30, 34).repeat(2)[None], prompt_lookup_num_tokens=3, max_new_tokens=4)


def test_prefixes_and_sentences_without_a_reader_are_refused(steered):
    prompt = Prompt("Ada moved to Lyon last year.").highlight("Lyon")
    with pytest.raises(SteeringError, match="fading puts keys back"):
        steered.prefill(prompt, steering=Seka(gain=2.0, fade=2))
    prefix = steered.prefill("Ada moved to Paris last year.\n")
    question = Prompt("Robert moved to Lyon. Where does Robert live?").highlight("Lyon")
    out = steered.generate(question, prefix=prefix, steering=Seka(gain=4.0, fade=2), max_new_tokens=5)
    whole = Prompt("Ada moved to Paris last year.\n") + question
    assert out.text == steered.generate(whole, steering=Seka(gain=4.0, fade=2), max_new_tokens=5).text
    model, bank = model_and_bank("qwen3")
    with pytest.raises(SteeringError, match="must read the answer"), steer(model, bank, MASK, Seka(fade="sentence")):
        pass
    for bad in (0, -1, "word", 1.5):
        with pytest.raises(ValueError, match="fade"):
            Seka(fade=bad)
    assert isinstance(SteeredModel, type)
