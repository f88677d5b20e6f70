"""AdaSEKA: each row's own query chooses its experts, in the pass that edits the keys."""

import json
from contextlib import contextmanager

import pytest
import torch
from oracle import routed_keys
from tiny import random_expert
from transformers import DynamicCache

from seka_rag import AdaSeka, ExpertBank, ProjectionBank, Prompt, Seka, SteeredModel, route, steer
from seka_rag.errors import BankError, SettingError, SteeringError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import recording
from seka_rag.hf.taps import tapped
from seka_rag.ops.edits import Part
from seka_rag.ops.routing import SCORES
from seka_rag.steering.key_bias import KeyBias
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.key_vector import KeyVector
from seka_rag.steering.registry import as_steering, steering_as_dict

IDS = torch.stack([torch.arange(30, 54), torch.arange(81, 105), torch.arange(200, 224)])
MASK = torch.zeros(3, 24, dtype=torch.bool)
MASK[0, [3, 4, 10]] = MASK[1, [6, 7, 8, 20]] = True  # the third row has no highlight


@pytest.fixture(scope="module")
def experts(qwen3):
    return ExpertBank(
        {
            "a": random_expert(qwen3, 1),
            "b": random_expert(qwen3, 2, without=[(1, 0)]),
            "c": random_expert(qwen3, 3, without=[(1, 0), (2, 1), (0, 0), (0, 1)]),
        }
    )


@pytest.fixture(scope="module")
def lone(experts):
    return experts.remove("a")  # no expert has head 0 of layer 1


def run(model, experts, method, ids=IDS, mask=MASK, **inputs):
    with torch.no_grad(), steer(model, experts, mask, method) as report:
        logits = model(ids, **inputs).logits
    return logits, report


@contextmanager
def watch(model):
    """Queries and keys of every layer before the edit, if it is opened around the steering."""
    sites = find_key_sites(model)
    seen = {"q": {}, "before": {}}

    def enter(_):
        for i in sites.modules:
            yield sites.modules[i], lambda out, i=i: seen["before"].__setitem__(i, sites.read(out).clone())
            yield sites.query_modules[i], lambda out, i=i: seen["q"].__setitem__(i, sites.read_query(out).clone())

    with tapped(sites.decoder, enter):
        yield seen


def as_lists(bank, layer):
    """experts[m][h] = (U, s) or None, for the oracle."""
    result = []
    for name in bank.names:
        u, s = bank[name].positive[layer].double().numpy(), bank[name].singular_values[layer].double().numpy()
        result.append([(u[h], s[h]) if s[h].any() else None for h in range(len(u))])
    return result


@pytest.mark.parametrize("router", ["energy", "signed", "uniform"])
@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_edited_keys_equal_the_oracle(any_model, router, side):
    bank = ExpertBank({"a": random_expert(any_model, 1), "b": random_expert(any_model, 2, without=[(1, 0)])})
    attention = torch.ones_like(IDS)
    if side == "left":
        attention[1, :5] = 0
    if side == "right":
        attention[1, 21:] = 0
    last = [int(row.nonzero().max()) for row in attention]
    method = AdaSeka(gain=0.7, router=router, top_k=3)
    with torch.no_grad(), watch(any_model) as seen, steer(any_model, bank, MASK, method) as report:
        with recording(find_key_sites(any_model)) as after:
            any_model(IDS, attention_mask=attention)
    for layer in find_key_sites(any_model).modules:
        wanted = routed_keys(
            seen["before"][layer], seen["q"][layer], last, MASK.tolist(), as_lists(bank, layer), 0.7, router, 3
        )
        assert torch.allclose(after[layer].double(), torch.from_numpy(wanted), atol=1e-4)
    assert report.tokens_edited == 7
    assert report.experts[0].keys() == {"a", "b"}


def test_rows_do_not_depend_on_the_batch(qwen3, experts):
    """Permuted and padded batches give each row what it gets alone; the official code routes all rows by the first."""
    together, report = run(qwen3, experts, AdaSeka())
    for row in range(3):
        alone, single = run(qwen3, experts, AdaSeka(), IDS[row : row + 1], MASK[row : row + 1])
        assert torch.allclose(alone[0], together[row], atol=1e-5)
        if row < 2:
            assert single.experts[0] == pytest.approx(report.experts[row], abs=1e-5)
    assert report.experts[0] != pytest.approx(report.experts[1], abs=1e-2)
    order = [2, 0, 1]
    permuted, _ = run(qwen3, experts, AdaSeka(), IDS[order], MASK[order])
    assert torch.allclose(permuted, together[order], atol=1e-5)
    padded = torch.nn.functional.pad(IDS, (4, 0))
    positions = (torch.nn.functional.pad(torch.ones_like(IDS), (4, 0)).cumsum(-1) - 1).clamp_min(0)
    attention = torch.nn.functional.pad(torch.ones_like(IDS), (4, 0))
    mask = torch.nn.functional.pad(MASK, (4, 0))
    left, _ = run(qwen3, experts, AdaSeka(), padded, mask, attention_mask=attention, position_ids=positions)
    assert torch.allclose(left[:, 4:], together, atol=1e-5)


def test_unmarked_rows_and_gain_zero_are_bit_identical(qwen3, experts):
    plain = qwen3(IDS).logits
    logits, _ = run(qwen3, experts, AdaSeka())
    assert torch.equal(logits[2], plain[2])
    assert not torch.equal(logits[0], plain[0])
    nothing, report = run(qwen3, experts, AdaSeka(gain=0.0))
    assert torch.equal(nothing, plain)
    assert "gain is 0" in report.warnings[0]


@pytest.mark.parametrize("router", ["energy", "share", "signed"])
def test_the_sign_of_a_singular_vector_does_not_matter(qwen3, experts, router):
    """Whatever sign an SVD gives, learning points it; the sign-free routers do not even need that."""
    from seka_rag.learning.learn import _oriented

    generator = torch.Generator().manual_seed(5)
    mean = torch.randn(2, 16, generator=generator, dtype=torch.float64)

    def bank(signs):
        parts = {}
        for name in experts.names:
            one = experts[name]
            factors = {i: _oriented(u.double() * signs, mean).float() for i, u in one.positive.items()}
            parts[name] = ProjectionBank(one.model, factors, singular_values=one.singular_values)
        return ExpertBank(parts)

    flipped = torch.randint(0, 2, (2, 1, 4), generator=generator) * 2.0 - 1
    assert (flipped < 0).any()
    one, _ = run(qwen3, bank(torch.ones(2, 1, 4)), AdaSeka(router=router))
    two, _ = run(qwen3, bank(flipped), AdaSeka(router=router))
    assert torch.allclose(one, two, atol=1e-5)
    if router != "signed":
        parts = {
            n: ProjectionBank(
                experts[n].model,
                {i: u * flipped for i, u in experts[n].positive.items()},
                singular_values=experts[n].singular_values,
            )
            for n in experts.names
        }
        unpointed, _ = run(qwen3, ExpertBank(parts), AdaSeka(router=router))
        assert torch.allclose(unpointed, run(qwen3, experts, AdaSeka(router=router))[0], atol=1e-5)


def test_one_chosen_expert_is_seka_with_its_bank(qwen3, experts):
    chosen, report = run(qwen3, experts, AdaSeka(gain=0.6, expert="b"))
    alone, _ = run(qwen3, experts["b"], Seka(gain=0.6))
    assert torch.allclose(chosen, alone, atol=1e-5)
    assert report.experts[0] == {"b": 1.0}
    with pytest.raises(BankError, match="no expert 'z'; there are a, b, c"):
        run(qwen3, experts, AdaSeka(expert="z"))


def test_gains_of_experts(qwen3, experts):
    twice = ExpertBank({"b": experts["b"]}, gains={"b": 2.0})
    assert torch.allclose(
        run(qwen3, twice, AdaSeka(gain=0.3))[0], run(qwen3, experts["b"], Seka(gain=0.6))[0], atol=1e-5
    )


def test_a_head_that_experts_lack(qwen3, experts, lone):
    _, report = run(qwen3, experts, AdaSeka(router="uniform"))
    assert torch.equal(report.routing[1][0, 0], torch.tensor([1.0, 0.0, 0.0]))  # only "a" has it
    assert torch.equal(report.routing[1][0, 1], torch.ones(3))
    _, report = run(qwen3, lone, AdaSeka())
    assert report.routing[1].shape == (3, 1, 2)  # head 0 of layer 1 is nobody's
    _, report = run(qwen3, experts, AdaSeka(temperature=0.5))
    assert torch.allclose(report.routing[1].sum(-1), torch.ones(3, 2))
    assert (report.routing[1][:, 0, 1:] == 0).all()


def test_temperature_goes_from_even_to_one_expert(qwen3, experts):
    hot = run(qwen3, experts, AdaSeka(temperature=1e4))[1].routing[1][:2, 1]
    cold = run(qwen3, experts, AdaSeka(temperature=1e-3))[1].routing[1][:2, 1]
    assert torch.allclose(hot, torch.full((2, 3), 1 / 3), atol=1e-3)
    assert torch.allclose(cold.amax(-1), torch.ones(2), atol=1e-3)


def test_random_routing_deals_the_same_weights_to_other_experts(qwen3, experts):
    layer = experts.layer_experts(1, 5)
    queries = torch.nn.functional.normalize(torch.randn(300, 2, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    right, dealt = (SCORES[name](queries, layer) for name in ("energy", "random"))
    assert torch.equal(right.sort(-1).values, dealt.sort(-1).values)
    assert torch.equal(dealt[:, 0], right[:, 0])  # only "a" has this head, so there is nothing to deal
    moved = [(dealt[:, 1, i] == right[:, 1, j]).float().mean() for i in range(3) for j in range(3)]
    assert all(0.25 < share < 0.42 for share in moved)  # each comes to each place in a third of the rows
    assert torch.equal(dealt, SCORES["random"](queries, layer))
    _, report = run(qwen3, experts, AdaSeka(router="random"))
    assert report.routing[1].amax(-1).eq(1).all()


def test_a_callable_router(qwen3, experts):
    def only_last(query, some):
        assert query.shape[2] == 16
        assert torch.allclose(query.norm(dim=-1), torch.ones(query.shape[:2]))
        weights = torch.zeros(len(query), len(some.heads), len(some.names))
        weights[..., -1] = 1.0
        return weights

    logits, report = run(qwen3, experts, AdaSeka(router=only_last))
    assert torch.allclose(logits, run(qwen3, experts["c"], Seka(gain=1.0))[0], atol=1e-5)
    assert (report.routing[1][:, 0, 2] == 0).all()  # "c" lacks this head, whatever the router says
    assert (report.routing[1][:, 1, 2] == 1).all()
    with pytest.raises(SteeringError, match=r"weights \(3, 2\), expected \(3, 2, 3\)"):
        run(qwen3, experts, AdaSeka(router=lambda query, some: torch.ones(query.shape[:2])))
    with pytest.raises(SettingError, match="function"):
        steering_as_dict(AdaSeka(router=only_last))
    assert as_steering(steering_as_dict(AdaSeka(temperature=0.1))) == AdaSeka(temperature=0.1)


def test_two_passes_route_by_unsteered_queries(qwen3, experts):
    attention = torch.ones_like(IDS)
    attention[1, :5] = 0
    method = AdaSeka(two_pass=True)
    weights = route(qwen3, experts, method, IDS, attention)
    for row in range(3):  # padding and neighbours change nothing
        start = 5 if row == 1 else 0
        alone = route(qwen3, experts, method, IDS[row : row + 1, start:])
        for layer, alpha in alone.items():
            assert torch.allclose(alpha[0], weights[layer][row], atol=1e-5)
    # in the first steered layer nothing is edited yet, so both ways see the same query
    first = min(weights)
    _, report = run(qwen3, experts, AdaSeka(), attention_mask=attention)
    assert torch.allclose(report.routing[first][0], weights[first][0], atol=1e-5)
    later = max(weights)
    assert not torch.allclose(report.routing[later][0], weights[later][0], atol=1e-3)
    # given weights are applied as they are
    fixed = {layer: torch.tensor([0.0, 1.0, 0.0]).expand(3, alpha.shape[1], 3) for layer, alpha in weights.items()}
    with torch.no_grad(), steer(qwen3, experts, MASK, method, prepared=fixed):
        logits = qwen3(IDS).logits
    assert torch.allclose(logits, run(qwen3, experts["b"], Seka(gain=1.0))[0], atol=1e-5)
    with pytest.raises(SteeringError, match="two_pass routes by an unsteered pass"):
        run(qwen3, experts, method)


def test_chunks_refuse_one_pass_and_take_two(qwen3, experts):
    def in_chunks(method, **given):
        with torch.no_grad(), steer(qwen3, experts, MASK, method, **given):
            cache = DynamicCache()
            return torch.cat([qwen3(piece, past_key_values=cache).logits for piece in IDS.split(8, 1)], 1)

    with pytest.raises(SteeringError, match=r"in chunks.*two_pass=True"):
        in_chunks(AdaSeka())
    method = AdaSeka(two_pass=True)
    weights = route(qwen3, experts, method, IDS)
    with torch.no_grad(), steer(qwen3, experts, MASK, method, prepared=weights):
        whole = qwen3(IDS).logits
    assert torch.allclose(in_chunks(method, prepared=weights), whole, atol=1e-5)


def test_one_pass_is_one_pass(qwen3, experts):
    passes = []
    handle = find_key_sites(qwen3).decoder.register_forward_pre_hook(lambda *a: passes.append(1))
    try:
        run(qwen3, experts, AdaSeka())
    finally:
        handle.remove()
    assert len(passes) == 1


@pytest.mark.parametrize("mode", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}, {}])
@pytest.mark.parametrize("two_pass", [False, True])
def test_generate(qwen3, experts, mode, two_pass):
    """Beams and samples repeat rows, and each copy gets its row's mixture: first logits equal those of a forward pass."""
    method = AdaSeka(two_pass=two_pass)
    given = {"prepared": route(qwen3, experts, method, IDS)} if two_pass else {}
    with torch.no_grad(), steer(qwen3, experts, MASK, method, **given):
        whole = qwen3(IDS).logits[:, -1]
    torch.manual_seed(0)
    with torch.no_grad(), steer(qwen3, experts, MASK, method, **given) as report:
        out = qwen3.generate(IDS, max_new_tokens=3, output_logits=True, return_dict_in_generate=True, **mode)
    times = len(out.logits[0]) // 3
    for copy in range(times):
        assert torch.allclose(out.logits[0][copy::times], whole, atol=1e-4)
    assert len(report.experts) == 3


def test_wrong_kinds_of_bank(qwen3, experts, make_bank):
    with pytest.raises(BankError, match="AdaSeka takes a bank of type ExpertBank"):
        run(qwen3, experts["a"], AdaSeka())
    with pytest.raises(BankError, match="Seka takes a bank of type ProjectionBank"):
        run(qwen3, experts, Seka())
    given = ExpertBank({"given": make_bank(qwen3)})
    with pytest.raises(BankError, match="given come from given projections"):
        run(qwen3, given, AdaSeka(router="signed"))
    logits, _ = run(qwen3, given, AdaSeka(gain=0.5))  # one expert: weight 1 on all its columns
    assert torch.allclose(logits, run(qwen3, make_bank(qwen3), Seka(gain=0.5))[0], atol=1e-5)


def test_steered_model(qwen3, experts, tokenizer):
    model = SteeredModel(qwen3, tokenizer, bank=experts, name="tiny")
    texts = ["Ada lives in Lyon. Where does Ada live?", "Robert trains for rowing. What does Robert do?"]
    prompts = [Prompt(t).highlight(t.split(".")[0]) for t in texts]
    both = model.generate(prompts, max_new_tokens=3)
    for prompt, out in zip(prompts, both, strict=True):
        alone = model.generate(prompt, max_new_tokens=3)
        assert alone.text == out.text
        assert len(out.report.experts) == 1
        assert out.report.experts[0] == pytest.approx(alone.report.experts[0], abs=1e-5)
        assert out.report.as_dict()["experts"] == out.report.experts
        assert "routing" not in out.report.as_dict()
    assert both[0].report.method == "AdaSeka"
    assert both[0].report.gain == experts.suggested_gain
    twice = model.generate(prompts[0], steering=AdaSeka(two_pass=True), max_new_tokens=3)
    assert twice.report.tokens_edited == sum(w > 0 for w in model.tokenize(prompts[0]).weights)
    pieces = model.stream(prompts[0], max_new_tokens=3)
    assert "".join(pieces) == both[0].text
    assert pieces.result.report.experts == model.generate(prompts[0], max_new_tokens=3).report.experts


class TestMixed:
    """Experts of other methods: the subspaces choose, the method edits."""

    @pytest.mark.parametrize("router", ["energy", "uniform"])
    def test_projections_as_a_method_are_the_papers(self, qwen3, experts, router):
        """Whole subspaces, so that SEKA with an expert's bank is its projection."""
        paper, report = run(qwen3, experts, AdaSeka(gain=0.7, router=router))
        mixed, again = run(qwen3, experts, AdaSeka(gain=0.7, router=router, mixed=Seka(gain=1.0)))
        torch.testing.assert_close(mixed, paper, atol=1e-5, rtol=1e-5)
        assert again.experts[0] == pytest.approx(report.experts[0], abs=1e-5)
        assert again.tokens_edited == report.tokens_edited

    def test_a_bias_of_each_expert(self, qwen3, make_bank):
        """Keys are those before, plus each expert's vector times its weight, its gain and that of the highlight."""
        sites = find_key_sites(qwen3)
        banks = {name: make_bank(qwen3, seed=i) for i, name in enumerate("ab")}
        banks["b"] = banks["b"].changed(strengths=torch.full((sites.layers, sites.heads), 0.5))
        experts = ExpertBank(banks, gains={"b": 3.0})
        method, weights = KeyBias(bias=1.5, cap=9.0), MASK * torch.tensor([1.0, 0.5, 1.0])[:, None]
        with watch(qwen3) as before:
            with torch.no_grad(), steer(qwen3, experts, weights, AdaSeka(gain=0.5, mixed=method)) as report:
                with recording(sites) as after:
                    qwen3(IDS)
        for layer in sites.modules:
            expected = before["before"][layer].clone()
            for m, name in enumerate("ab"):
                edit = method.edits(banks[name], sites)[layer]
                share = 0.5 * (1.0, 3.0)[m] * report.routing[layer][:, :, m]  # [B, h]
                expected += weights[..., None, None] * share[:, None, :, None] * edit.vectors
            torch.testing.assert_close(after[layer], expected, atol=1e-5, rtol=1e-5)
            assert torch.equal(after[layer][~MASK], before["before"][layer][~MASK])
        assert report.routing[max(sites.modules)].std() > 0.01

    def test_two_passes_chunks_and_parts_of_the_heads(self, qwen3, experts):
        method = AdaSeka(two_pass=True, mixed=KeyScaling(gain=0.8))
        weights = route(qwen3, experts, method, IDS)
        with torch.no_grad(), steer(qwen3, experts, MASK, method, prepared=weights):
            whole = qwen3(IDS).logits
        with torch.no_grad(), steer(qwen3, experts, MASK, method, prepared=weights):
            cache = DynamicCache()
            pieces = torch.cat([qwen3(piece, past_key_values=cache).logits for piece in IDS.split(8, 1)], 1)
        torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)
        sites = find_key_sites(qwen3)
        edit = method.edits(experts, sites)[1]
        keys, state = torch.randn(1, 3, sites.heads, sites.head_dim), torch.rand(3, sites.heads, 3)
        rows = torch.zeros(3, dtype=torch.long)
        part = Part(torch.ones(3, dtype=torch.bool), rows, torch.arange(3), torch.ones(3), rows)
        halves = [edit.of_heads(range(h, h + 1)).apply(keys[:, :, h : h + 1], part, state[:, [h]]) for h in range(2)]
        torch.testing.assert_close(torch.cat(halves, 2), edit.apply(keys, part, state))

    def test_it_is_stored_with_its_method(self):
        method = AdaSeka(gain=2.0, temperature=0.1, mixed=KeyBias(bias=3.0))
        stored = steering_as_dict(method)
        assert stored["mixed"]["method"] == "KeyBias"
        assert as_steering(json.loads(json.dumps(stored))) == method
        assert as_steering(steering_as_dict(AdaSeka())) == AdaSeka()

    @pytest.mark.parametrize(
        ("mixed", "message"),
        [
            (KeyBias(fade=8), "give fade and layers to AdaSeka"),
            (KeyScaling(layers=(1,)), "give fade and layers to AdaSeka"),
            (AdaSeka(), "cannot mix experts itself"),
            (KeyBias(bias=0.0), "bias of the experts' method is 0"),
            ({"method": "Nothing"}, "Nothing"),
            ({"bias": 2}, "KeyEditing"),
        ],
    )
    def test_methods_that_no_expert_can_have(self, mixed, message):
        with pytest.raises((ValueError, SettingError), match=message):
            as_steering({"method": "AdaSeka", "mixed": mixed})

    def test_edits_that_cannot_be_mixed(self, qwen3, experts, make_bank):
        with pytest.raises(SettingError, match="needs queries of its own or edits values"):
            run(qwen3, experts, AdaSeka(mixed=KeyBias(form="request")))
        with pytest.raises(BankError, match="needs mean queries"):
            run(qwen3, experts, AdaSeka(mixed=KeyBias()))
        sites = find_key_sites(qwen3)
        vectors = {1: torch.ones(sites.heads, sites.head_dim)}
        holed = ExpertBank({"b": experts["b"].changed(vectors=vectors), "a": experts["a"].changed(vectors=vectors)})
        with pytest.raises(BankError, match=r"expert 'b' has no subspace of heads \[0\] of layer 1"):
            run(qwen3, holed, AdaSeka(mixed=KeyVector()))
        with pytest.raises(BankError, match=r"expert 'b' has no subspace of heads \[0\] of layer 1"):
            run(qwen3, holed, AdaSeka(mixed=KeyVector(), layers=(0, 1)))
