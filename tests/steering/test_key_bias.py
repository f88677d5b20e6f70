"""Key bias: what attention's score of a highlighted token really gains, after the model's own rotation, in every family."""

import pytest
import torch
from oracle import group_bias
from scores import scores_of
from tiny import FAMILIES, random_bank, tiny_model

from seka_rag import KeyBias, ProjectionBank, Seka, steer
from seka_rag.bank.queries import MeanQueries
from seka_rag.errors import BankError, SteeringError, UnsupportedModelError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import recording
from seka_rag.hf.taps import tapped

T = 7  # shorter than the sliding windows, and no number of heads
IDS = torch.arange(30, 30 + 4 * T).view(4, T)
MASK = torch.zeros(4, T)
MASK[0, [0, 3]] = torch.tensor([1.0, 0.5])
MASK[2, [2, 4, 6]] = torch.tensor([2.0, 1.0, 1.0])
BIAS = 0.7
LOOSE = {"cap": 1e3, "bias": BIAS}
#: Families without a known query, and none else.
REFUSED = {"jetmoe"}
#: Families that subtract the largest score before the softmax, so that only differences can be seen.
RELATIVE = {"gpt_oss", "mimo_v2_flash"}
ROPES = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "longrope": {
        "rope_type": "longrope",
        "factor": 8.0,
        "short_factor": [1.0 + 0.1 * i for i in range(8)],
        "long_factor": [2.0 + 0.5 * i for i in range(8)],
        "original_max_position_embeddings": 64,
    },
}


def last_queries(model, ids=IDS):
    """Layer -> the queries of the last tokens ``[B, Q, D]`` in a plain pass."""
    sites, found = find_key_sites(model), {}

    def enter(_):
        for layer, module in sites.query_modules.items():
            yield module, lambda out, layer=layer: found.__setitem__(layer, sites.read_query(out)[:, -1].float())

    with torch.no_grad(), tapped(sites.decoder, enter):
        model(ids)
    return found


def bank_of(model, queries, layers):
    """A bank that steers all heads of some layers; the mean queries are given."""
    given = random_bank(model, layers=layers)
    power = {i: q.square().sum(-1) for i, q in queries.items()}
    return ProjectionBank(given.model, given.positive, queries=MeanQueries(queries, power))


def gained(model, bank, method, ids=IDS, mask=MASK, layer=None, **inputs):
    """How much the scores ``[B, heads, T]`` of the last token gain in a layer, and the report."""
    layer = min(bank.layers) if layer is None else layer
    before = scores_of(model, ids, layer, **inputs)
    with steer(model, bank, mask, method) as report:
        after = scores_of(model, ids, layer, **inputs)
    gain = (after - before)[:, :, -1]
    if model.config.model_type in RELATIVE:
        gain = gain - gain[:, :, mask.sum(0).argmin()][..., None]
    return gain, report


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - REFUSED))
def test_scores_gain_the_bias_after_the_models_own_rotation(family):
    model = tiny_model(family)
    sites = find_key_sites(model)
    queries = last_queries(model)
    for layer in list(sites.modules)[:2]:
        bank = bank_of(model, {i: q[2] for i, q in queries.items()}, [layer])  # the mean is that of row 2
        wanted = BIAS * MASK[:, None, :]
        gain, report = gained(model, bank, KeyBias(form="request", **LOOSE), layer=layer)
        assert torch.allclose(gain, wanted.expand_as(gain), atol=1e-4), (layer, "request")
        assert (report.tokens_edited, report.layers, report.heads) == (5, (layer,), sites.heads)
        assert not report.warnings or "probing" in report.warnings[0]
        gain, _ = gained(model, bank, KeyBias(form="mean", **LOOSE), layer=layer)
        assert torch.allclose(gain[2], wanted[2].expand_as(gain[2]), atol=1e-4), (layer, "mean")
        gain = distances_met(model, bank, layer)
        assert torch.allclose(gain, torch.tensor(BIAS), atol=1e-4), (layer, "constant")


def distances_met(model, bank, layer):
    """The mean gain over distances 1 to 6 of the constant form, each as often as the form counts it: ``[heads]``."""
    mask = torch.zeros(4, T)
    mask[2, :-1] = 1
    gain, report = gained(model, bank, KeyBias(form="constant", distances=(1, T - 1), **LOOSE), mask=mask, layer=layer)
    assert report.tokens_edited == T - 1
    counted = torch.logspace(0, torch.log10(torch.tensor(T - 1.0)).item(), 64).round().long()
    return gain[2][:, T - 1 - counted].mean(-1)


@pytest.mark.parametrize("rope", sorted(ROPES))
@pytest.mark.parametrize("length", [20, 100])
def test_scaled_rotary_positions(rope, length):
    """Also beyond the original length, where dynamic frequencies have changed."""
    model = tiny_model("llama", rope_parameters={"rope_theta": 10_000.0, **ROPES[rope]}, max_position_embeddings=64)
    ids = (torch.arange(2 * length) * 7 % 1400 + 30).view(2, length)
    mask = torch.zeros(2, length)
    mask[:, [0, 3, length // 2, length - 2]] = 1
    queries = last_queries(model, ids)
    bank = bank_of(model, {i: q[1] for i, q in queries.items()}, [0, 1])
    gain, _ = gained(model, bank, KeyBias(form="request", **LOOSE), ids, mask)
    assert torch.allclose(gain, (BIAS * mask)[:, None].expand_as(gain), atol=1e-4)
    gain, _ = gained(model, bank, KeyBias(form="mean", **LOOSE), ids, mask)
    assert torch.allclose(gain[1], (BIAS * mask[1]).expand_as(gain[1]), atol=1e-4)


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_the_constant_form_does_not_depend_on_what_ran_before(rope):
    settings = {"rope_parameters": {"rope_theta": 10_000.0, **ROPES[rope]}, "max_position_embeddings": 64}
    model, fresh = (tiny_model("llama", **settings) for _ in range(2))
    sites = find_key_sites(model)
    bank = bank_of(model, {i: q[0] for i, q in last_queries(model).items()}, [0])
    KeyBias().edits(bank, sites)
    last_queries(model, torch.full((1, 100), 30))  # beyond the original length
    wanted = KeyBias(bias=3.0).edits(bank, find_key_sites(fresh))[0].vectors
    torch.testing.assert_close(KeyBias(bias=3.0).edits(bank, sites)[0].vectors, wanted)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("form", ["mean", "request"])
def test_padded_rows_and_given_positions(form, side):
    model = tiny_model("llama")
    ids, attention, mask = (torch.zeros(2, 10, dtype=torch.long) for _ in range(3))
    for i, n in enumerate((10, 6)):
        where = slice(10 - n, 10) if side == "left" else slice(0, n)
        ids[i, where], attention[i, where] = torch.arange(40 + i, 40 + i + n), 1
        mask[i, where] = torch.tensor([1, 0, 1] + [0] * (n - 3))
    positions = (attention.cumsum(-1) - 1).clamp_min(0) + 5
    last = attention.cumsum(-1).argmax(-1)
    plain = {i: last_queries(model, ids[i][attention[i] == 1][None]) for i in range(2)}
    for row in range(2):
        bank = bank_of(model, {i: q[0] for i, q in plain[row].items()}, [0])
        method = KeyBias(form=form, **LOOSE)
        for given in ({"position_ids": positions}, {} if side == "right" else {"position_ids": positions - 5}):
            before = scores_of(model, ids, 0, attention_mask=attention, **given)
            with steer(model, bank, mask, method):
                after = scores_of(model, ids, 0, attention_mask=attention, **given)
            gain = (after - before)[row, :, last[row]]
            real = attention[row] == 1
            assert torch.allclose(gain[:, real], (BIAS * mask[row][real]).expand_as(gain[:, real]), atol=1e-4)


@pytest.mark.parametrize("distance", [5, 256, 2048, 8000])
def test_what_the_constant_form_gains_at_a_distance(distance):
    """After the model's own rotation: ``s R(d) q . x`` with the vector x of the loops, turned by complex numbers."""
    model = tiny_model("llama", rope_parameters={"rope_theta": 100_000.0, "rope_type": "default"})
    queries = last_queries(model)
    bank = bank_of(model, {i: q[2] for i, q in queries.items()}, [0])
    mask = torch.zeros(4, T)
    mask[2, 0] = 1
    positions = torch.arange(T) + distance - T + 1
    positions[0] = 0
    gain, _ = gained(model, bank, KeyBias(**LOOSE), mask=mask, position_ids=positions.expand(4, -1))
    inverse, scale = model.model.rotary_emb.inv_freq.double(), 16**-0.5
    none = torch.zeros(1, 1, 2, 16)
    vectors = group_bias(none, torch.ones(1, 1), queries[0][2][None], BIAS, scale, inverse, "constant", (16, 4096))[
        0, 0
    ]
    for head in range(queries[0].shape[1]):
        q, x = (torch.complex(*v.double().chunk(2)) for v in (queries[0][2, head], vectors[head // 2]))
        wanted = scale * (q * torch.polar(torch.ones(8).double(), distance * inverse) * x.conj()).real.sum()
        assert gain[2, head, 0].item() == pytest.approx(wanted.item(), abs=1e-4)


@pytest.mark.parametrize("form", ["constant", "mean", "request"])
def test_keys_equal_the_oracle(form):
    model = tiny_model("qwen3")
    sites, queries = find_key_sites(model), last_queries(model)
    bank = bank_of(model, {i: q[2] for i, q in queries.items()}, [0])
    with torch.no_grad(), recording(sites) as before, steer(model, bank, MASK, KeyBias(form=form, **LOOSE)):
        with recording(sites) as after:
            model(IDS)
    inverse = model.model.rotary_emb.inv_freq.double()
    given = queries[0] if form == "request" else queries[0][2].expand_as(queries[0])
    wanted = group_bias(before[0], MASK, given, BIAS, 16**-0.5, inverse, form, (16, 4096))
    assert torch.allclose(after[0].double(), wanted, atol=1e-5)
    assert torch.equal(after[0][MASK == 0], before[0][MASK == 0])
    if form == "constant":  # one vector for all
        moved = ((after[0] - before[0]) / MASK[..., None, None])[MASK > 0]
        assert torch.allclose(moved, moved[:1].expand_as(moved), atol=1e-5)


def test_strengths_choose_heads_and_scale_the_bias():
    model = tiny_model("llama")
    queries = {i: q[2] for i, q in last_queries(model).items()}
    given = bank_of(model, queries, [0, 1])
    strengths = torch.zeros(3, 2)
    strengths[0, 1], strengths[2, 0] = -0.5, 2.0
    bank = ProjectionBank(given.model, given.positive, queries=given.queries, strengths=strengths)
    gain, report = gained(model, bank, KeyBias(form="mean", **LOOSE), layer=0)
    assert (report.layers, report.heads) == ((0, 2), 2)
    wanted = BIAS * MASK[2]
    assert torch.equal(gain[2, :2], torch.zeros(2, T))  # query heads of head 0
    assert torch.allclose(gain[2, 2:], -0.5 * wanted.expand(2, -1), atol=1e-4)
    _, only = gained(model, bank, KeyBias(form="mean", layers=(2,), **LOOSE), layer=2)
    assert (only.layers, only.heads) == ((2,), 1)
    with pytest.raises(BankError, match=r"\[1\] were asked for"):
        gained(model, bank, KeyBias(layers=(1,)))


def test_a_change_is_capped_and_said():
    model = tiny_model("llama")
    sites = find_key_sites(model)
    bank = bank_of(model, {i: q[2] for i, q in last_queries(model).items()}, [0])
    with torch.no_grad(), recording(sites) as before, steer(model, bank, MASK, KeyBias(bias=50.0, cap=0.25)) as report:
        with recording(sites) as after:
            model(IDS)
    share = ((after[0] - before[0]).norm(dim=-1) / before[0].norm(dim=-1))[MASK > 0]
    assert torch.allclose(share, torch.tensor(0.25), atol=1e-4)
    assert "100% of the changes" in report.warnings[0]


def test_where_the_end_must_be_known():
    model = tiny_model("llama")
    bank = bank_of(model, {i: q[2] for i, q in last_queries(model).items()}, [0])

    def in_chunks(form):
        with torch.no_grad(), steer(model, bank, MASK, KeyBias(form=form, **LOOSE)):
            cache = model(IDS[:, :5], use_cache=True).past_key_values
            return model(IDS[:, 5:], past_key_values=cache).logits

    with torch.no_grad(), steer(model, bank, MASK, KeyBias(form="constant", **LOOSE)):
        whole = model(IDS).logits[:, 5:]
    assert torch.allclose(in_chunks("constant"), whole, atol=1e-5)
    for form, says in (("mean", "how far its highlights are"), ("request", "how far its highlights are")):
        with pytest.raises(SteeringError, match=f"(?s)in chunks.*{says}"):
            in_chunks(form)
    three = torch.arange(T).expand(3, 4, T)
    with (
        pytest.raises((UnsupportedModelError, RuntimeError, ValueError)),
        steer(model, bank, MASK, KeyBias(form="mean")),
    ):
        model.model(IDS, position_ids=three)


def test_what_the_bank_and_the_model_must_have():
    model = tiny_model("llama")
    given = random_bank(model)
    bare = ProjectionBank(given.model, given.positive)
    with pytest.raises(BankError, match="needs mean queries"), steer(model, bare, MASK, KeyBias()):
        pass
    other = tiny_model("jetmoe")
    with pytest.raises(UnsupportedModelError, match="could not be measured"):
        with steer(other, random_bank(other), MASK, KeyBias(form="request")):
            pass
    with pytest.raises(ValueError, match="nearest and the farthest"):
        KeyBias(distances=(9, 3))


def test_mean_queries_are_checked_and_saved(tmp_path):
    model = tiny_model("llama")
    bank = bank_of(model, {i: q[2] for i, q in last_queries(model).items()}, [0])
    strong = ProjectionBank(bank.model, bank.positive, queries=bank.queries, strengths=torch.full((3, 2), -1.5))
    again = ProjectionBank.load(strong.save(tmp_path / "bank"))
    assert again.digest == strong.digest != bank.digest
    assert torch.equal(again.strengths, strong.strengths)
    assert all(torch.equal(again.queries.mean[i], strong.queries.mean[i]) for i in range(3))
    assert torch.allclose(again.queries.focus(1), torch.ones(4))
    assert again.select(layers=[0]).strengths.tolist() == [[-1.5, -1.5], [0, 0], [0, 0]]
    m, p = strong.queries.mean, strong.queries.power
    for bad, says in (
        (MeanQueries({0: m[0]}, {}), "their lengths for"),
        (MeanQueries({9: m[0]}, {9: p[0]}), "layers 0 to 2"),
        (MeanQueries({0: m[0][:3]}, {0: p[0][:3]}), "shape"),
        (MeanQueries({0: m[0]}, {0: p[0][:2]}), "lengths of shape"),
        (MeanQueries({0: m[0] * float("nan")}, {0: p[0]}), "not finite"),
        (MeanQueries({0: m[0]}, {0: p[0] / 2}), "longer than"),
    ):
        with pytest.raises(BankError, match=says):
            ProjectionBank(bank.model, bank.positive, queries=bad)
    with pytest.raises(BankError, match="strengths: shape"):
        ProjectionBank(bank.model, bank.positive, strengths=torch.ones(2, 2))


def test_lora_and_weights_in_half_precision():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["k_proj", "q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    lora = peft.get_peft_model(tiny_model("llama"), config).eval()
    queries = last_queries(lora)
    bank = bank_of(lora, {i: q[2] for i, q in queries.items()}, [0])
    gain, _ = gained(lora, bank, KeyBias(form="mean", **LOOSE))
    assert torch.allclose(gain[2], (BIAS * MASK[2]).expand_as(gain[2]), atol=1e-4)
    half = tiny_model("llama").to(torch.bfloat16)
    bank = bank_of(half, {i: q[2] for i, q in last_queries(half).items()}, [0])
    gain, _ = gained(half, bank, KeyBias(form="mean", **LOOSE))
    assert torch.allclose(gain[2], (BIAS * MASK[2]).expand_as(gain[2]), atol=0.05)


def test_steering_that_is_open_meanwhile_is_not_touched_by_the_measurement():
    model = tiny_model("llama")
    bank = bank_of(model, {i: q[2] for i, q in last_queries(model).items()}, [0])
    with torch.no_grad(), steer(model, bank, MASK, Seka(gain=1.0)) as outer:
        with steer(model, bank, MASK, KeyBias(form="mean", **LOOSE)) as inner:
            both = model(IDS).logits
    assert outer.tokens_edited == inner.tokens_edited == 5
    with torch.no_grad(), steer(model, bank, MASK, Seka(gain=1.0)):
        with steer(model, bank, MASK, KeyBias(form="mean", **LOOSE)):
            assert torch.equal(model(IDS).logits, both)
