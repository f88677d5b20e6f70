"""The size of an edit is what it does to the keys, head by head."""

import pytest
import torch
from modes import IDS, MASK
from tiny import random_bank, tiny_model

from seka_rag import KeyBias, KeyScaling, ProjectionBank, Seka
from seka_rag.steering.sizes import edit_sizes


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_sizes_are_those_of_known_edits(family):
    model = tiny_model(family)
    bank, marks = random_bank(model), (MASK > 0).float()
    scaled = edit_sizes(model, bank, KeyScaling(gain=0.25), IDS, marks)
    assert set(scaled) == set(bank.layers)
    assert all(torch.allclose(size, torch.tensor(0.25), atol=1e-4) for size in scaled.values())
    weighted = edit_sizes(model, bank, KeyScaling(gain=0.25), IDS, MASK)  # weights 1, 1, 1/2, 1, 1
    assert all(torch.allclose(size, torch.tensor(0.25 * 4.5 / 5), atol=1e-4) for size in weighted.values())
    projected = edit_sizes(model, bank, Seka(gain=0.25), IDS, marks)
    assert all((size > 0).all() and (size < 0.25).all() for size in projected.values())
    capped = edit_sizes(model, bank, KeyBias(bias=500.0, cap=0.5), IDS, marks)
    assert all(torch.allclose(size, torch.tensor(0.5), atol=1e-3) for size in capped.values())


def test_heads_that_are_left_alone_have_no_size():
    model = tiny_model("llama")
    given = random_bank(model)
    strengths = torch.zeros(3, 2)
    strengths[1, 0] = 1.0
    bank = ProjectionBank(given.model, given.positive, queries=given.queries, strengths=strengths)
    sizes = edit_sizes(model, bank, KeyBias(bias=1.0, cap=1e3), IDS, MASK)
    assert list(sizes) == [1]
    assert sizes[1][0] > 0
    assert sizes[1][1] == 0
    twice = edit_sizes(
        model, bank, KeyBias(bias=2.0, cap=1e3), IDS, MASK
    )  # in the first edited layer keys are the same
    assert torch.allclose(twice[1][0], 2 * sizes[1][0], rtol=1e-3)
    faded = edit_sizes(model, bank, KeyBias(bias=2.0, cap=1e3, fade="sentence"), IDS, MASK)  # it comes after the prompt
    assert torch.equal(faded[1], twice[1])
    assert edit_sizes(model, bank, KeyBias(bias=0.0), IDS, MASK) == {}
