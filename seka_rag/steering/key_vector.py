"""One trained vector per head, added to highlighted keys: the lightest thing that can be trained for steering."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from seka_rag.bank import ProjectionBank
from seka_rag.errors import BankError
from seka_rag.hf.sites import KeySites
from seka_rag.ops.bias import BiasEdit
from seka_rag.ops.edits import Edit
from seka_rag.steering.key_editing import KeyEditing


class KeyVector(KeyEditing):
    """``k_j' = k_j + g w_j v`` with one vector v for each key-value head, trained by ``calibrate --tune vectors``.

    It is ``KeyBias(form="constant")`` with vectors that were trained for following evidence at little disturbance, instead of
    computed from mean queries. No query and no position: any cache, chunk, prefix and kernel.

    Attributes:
        gain: g; the vectors were trained for 1.
    """

    gain: float = Field(default=1.0, allow_inf_nan=False)

    def edits(self, bank: ProjectionBank, sites: KeySites) -> Mapping[int, Edit]:
        """See KeyEditing.

        Raises:
            BankError: the bank has no trained vectors.
        """
        if not bank.vectors:
            raise BankError(
                "KeyVector needs trained vectors, which this bank does not hold: train them (seka-rag calibrate --tune "
                "vectors, or CalibrationSettings(tune=('vectors',))), or use KeyBias"
            )
        heads = {layer: vectors.any(1).nonzero().flatten() for layer, vectors in bank.vectors.items()}
        return {
            layer: BiasEdit(heads[layer], self.gain * bank.vectors[layer][heads[layer]], None)
            for layer in self.chosen(bank, [layer for layer, some in heads.items() if len(some)])
            if len(heads[layer])
        }
