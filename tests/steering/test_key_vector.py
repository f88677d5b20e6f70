"""Trained vectors: k' = k + g w v on highlighted tokens, nothing else."""

import pytest
import torch
from tiny import random_bank, tiny_model

from seka_rag import steer
from seka_rag.errors import BankError
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import recording
from seka_rag.steering.key_vector import KeyVector

IDS = torch.arange(5, 17).view(2, 6)
MASK = torch.tensor([[0.0, 1.0, 0.5, 0, 0, 0], [0, 0, 0, 0, 2.0, 0]])


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
def test_the_vector_is_added(family):
    model = tiny_model(family).eval()
    bank = random_bank(model)
    draw = torch.Generator().manual_seed(0)
    vectors = {i: torch.randn(bank.model.heads, bank.model.head_dim, generator=draw) for i in (1, 2)}
    vectors[1][0] = 0  # a head without a vector is left alone
    bank = bank.changed(vectors=vectors)
    sites = find_key_sites(model)
    first = min(vectors)
    with torch.no_grad(), recording(sites) as plain:
        model(IDS)
    with torch.no_grad(), steer(model, bank, MASK, KeyVector(gain=0.7)) as report, recording(sites) as steered:
        model(IDS)
    expected = plain[first] + 0.7 * MASK[:, :, None, None] * vectors[first]
    torch.testing.assert_close(steered[first], expected, atol=1e-5, rtol=1e-5)
    untouched = MASK == 0
    assert torch.equal(steered[first][untouched], plain[first][untouched])
    assert report.tokens_edited == 3
    assert set(report.layers) == {1, 2}


def test_a_bank_without_vectors_says_what_to_do():
    model = tiny_model("llama")
    with pytest.raises(BankError, match="calibrate --tune vectors"):
        with steer(model, random_bank(model), MASK, KeyVector()):
            pass
