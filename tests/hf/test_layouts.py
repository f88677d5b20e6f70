"""Every kind of layout: a batch equals its rows."""

import torch

from seka_rag import Seka, steer


def test_a_batch_equals_its_rows_and_an_unmarked_row_is_untouched(any_model, make_bank):
    bank = make_bank(any_model)
    ids = torch.randint(10, 1000, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[0, 2:5] = True
    mask[2, 7:9] = True
    with torch.no_grad():
        plain = any_model(ids).logits
        with steer(any_model, bank, mask, Seka(gain=1.0)):
            batch = any_model(ids).logits
        for row in (0, 2):
            with steer(any_model, bank, mask[row : row + 1], Seka(gain=1.0)):
                assert torch.allclose(any_model(ids[row : row + 1]).logits[0], batch[row], atol=2e-4)
    assert torch.equal(batch[1], plain[1])
