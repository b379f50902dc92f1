"""The contract of time laws: a rising quantile function on [0, 1], and its own density."""

from __future__ import annotations

from typing import ClassVar

import torch

from lapflow.core.time_law import TimeLaw
from lapflow.plugins.kits.base import Conformance


class TimeLawConformance(Conformance):
    """`levels` is the number of scales of the composition that `make()`'s law is for."""

    kind = "time_law"
    levels: ClassVar[int] = 2

    def make(self) -> TimeLaw:
        raise NotImplementedError("override make() to return the law under test")

    def test_times_rise_within_the_unit_interval(self) -> None:
        """In each dtype, from u = 0 on."""
        for dtype in (torch.float32, torch.float64):
            u = torch.linspace(0, 1, 1001, dtype=dtype)[:-1]
            for scale in range(self.levels):
                t = self.make().quantile(u, scale, self.levels)
                assert t.dtype == dtype
                assert bool(((t >= 0) & (t <= 1)).all())
                assert bool((t.diff() >= 0).all())

    def test_the_density_is_that_of_the_quantiles(self) -> None:
        """Between any two quantiles lies their share of the probability, by quadrature (Gauss-Legendre)."""
        u = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
        nodes, weights = gauss_legendre()
        for scale in range(self.levels):
            t = self.make().quantile(u, scale, self.levels)
            half, middle = t.diff()[:, None] / 2, (t[1:] + t[:-1])[:, None] / 2
            density = self.make().density(middle + half * nodes, scale, self.levels)
            assert bool((density >= 0).all())
            mass = (density * weights * half).sum(1)
            assert (mass - u.diff()).abs().max() <= 1e-8, f"scale {scale}"

    def test_it_fits_its_composition(self) -> None:
        """`require` passes for the kit's number of scales."""
        self.make().require(self.levels)


def gauss_legendre() -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights of order 20 on [-1, 1]."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(20)
    return torch.from_numpy(nodes), torch.from_numpy(weights)
