"""A bank's strengths choose the heads of SEKA, key scaling and random twins, and multiply what is done to each."""

import pytest
import torch
from oracle import edited_keys
from tiny import matrix_of, random_bank, tiny_model

from seka_rag import steer
from seka_rag.hf.find import find_key_sites
from seka_rag.hf.hooks import recording
from seka_rag.steering.key_scaling import KeyScaling
from seka_rag.steering.random_projection import RandomProjection
from seka_rag.steering.seka import Seka

IDS = torch.arange(5, 17).view(2, 6)
MASK = torch.tensor([[0.0, 1.0, 0.5, 0, 0, 0], [0, 0, 0, 0, 2.0, 0]])


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama").eval()


@pytest.fixture(scope="module")
def banks(model):
    """With no strengths, and with one of each kind: two heads a layer, one of which is left alone in layer 2."""
    bank = random_bank(model)
    strengths = torch.tensor([[0.0, 0.0], [0.5, -2.0], [1.5, 0.0]])
    return bank, bank.changed(strengths=strengths)


def keys(model, bank, method):
    with torch.no_grad(), steer(model, bank, MASK, method) as report, recording(find_key_sites(model)) as found:
        model(IDS)
    return found, report


def test_the_first_steered_layer_of_seka_is_the_loop_of_the_paper(model, banks):
    with torch.no_grad(), recording(find_key_sites(model)) as plain:
        model(IDS)
    for gain_neg in (0.0, 0.4):
        found, report = keys(model, banks[1], Seka(gain=0.7, gain_neg=gain_neg))
        for head, strength in enumerate((0.5, -2.0)):
            weights, bank = (MASK * strength).tolist(), banks[0]
            negative = bank.negative[1] @ bank.negative[1].mT
            one = edited_keys(plain[1], weights, bank.projection(1), 0.7, negative, gain_neg)[:, :, head]
            torch.testing.assert_close(found[1][:, :, head].double(), torch.tensor(one), atol=1e-5, rtol=1e-5)
        assert torch.equal(found[0], plain[0])
        assert report.layers == (1, 2)
        assert report.heads == 3


@pytest.mark.parametrize("method", [Seka(gain=0.5), KeyScaling(gain=0.5), RandomProjection(gain=0.5, seed=3)])
def test_edits_are_multiplied_head_by_head(model, banks, method):
    sites = find_key_sites(model)
    whole, weighed = (method.edits(bank, sites) for bank in banks)
    assert weighed.keys() == {1, 2}
    for layer, edit in weighed.items():
        strengths = banks[1].strengths[layer]
        assert edit.heads.tolist() == strengths.nonzero().flatten().tolist()
        expected = matrix_of(whole[layer])[edit.heads] * strengths[edit.heads][:, None, None]
        torch.testing.assert_close(matrix_of(edit), expected, atol=1e-6, rtol=1e-5)
