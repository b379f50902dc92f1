"""The coupling contract: a permutation of a batch's noise, within groups, a pure function."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.coupling import Coupling
from lapflow.plugins.kits.base import Conformance, normal


class CouplingConformance(Conformance):
    """Pairs are those of `batch` samples of `shape` (c, *sizes)."""

    kind = "coupling"
    batch: ClassVar[int] = 12
    shape: ClassVar[tuple[int, ...]] = (1, 4, 4)

    def make(self) -> Coupling:
        raise NotImplementedError("override make() to return the coupling under test")

    def pairs(self, groups: Tensor | None = None) -> Tensor:
        data, noise = (normal(self.batch, *self.shape, key=key) for key in ("data", "noise"))
        found = self.make().pair(data, noise, groups)
        return torch.arange(self.batch) if found is None else found

    def test_it_is_a_permutation(self) -> None:
        """Every row of the noise is used once."""
        assert sorted(self.pairs().tolist()) == list(range(self.batch))

    def test_noise_stays_in_its_group(self) -> None:
        """And within a group it is permuted."""
        groups = torch.arange(self.batch) % 3
        found = self.pairs(groups)
        assert sorted(found.tolist()) == list(range(self.batch))
        assert torch.equal(groups[found], groups)

    def test_it_is_a_pure_function(self) -> None:
        """A resumed run makes the same pairs."""
        assert torch.equal(self.pairs(), self.pairs())
