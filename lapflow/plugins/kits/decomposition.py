"""The kit of a decomposition."""

from __future__ import annotations

import functools
import itertools
import math
from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.decomposition import Decomposition
from lapflow.core.errors import SizeError
from lapflow.core.state import State
from lapflow.plugins.kits.base import Conformance, error_of, near, normal, relative


class DecompositionConformance(Conformance[Decomposition]):
    """Linear, exactly invertible at every start, with the declared bands, ranges and stds. `channels` of the
    test sample, and its `side` along every axis; by default the smallest that splits, at least 4."""

    kind = "decomposition"
    channels: ClassVar[int] = 2
    side: ClassVar[int | None] = None
    # bf16 keeps 8 bits: each of the K sums of a split and its inverse may round by 2^-8 of the largest value.
    tolerances: ClassVar[dict[torch.dtype, float]] = {
        torch.float64: 1e-12,
        torch.float32: 1e-5,
        torch.bfloat16: 0.06,
    }

    def sizes(self) -> list[int]:
        return [self.side or max(multiple, 4) for multiple in self.make().multiple()]

    def image(self, start: int = 0, key: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """A batch of two images at scale `start`, the last axis twice as long."""
        d, (*sizes, last) = self.make(), self.sizes()
        whole = normal(2, self.channels, *sizes, 2 * last, key=key)
        shape = coarse_image(d, d.analyze(whole), start).shape
        return normal(*shape, key=(key, start)).to(dtype)

    def test_reconstruction_at_every_start(self) -> None:
        """synthesize(analyze(x, s), s) = x for every s, in each dtype."""
        d = self.make()
        for start, (dtype, tolerance) in itertools.product(range(d.levels), self.tolerances.items()):
            x = self.image(start, dtype=dtype)
            back = d.synthesize(d.analyze(x, start), start)
            assert back.shape == x.shape
            assert back.dtype == dtype
            error = relative(back, x)
            assert error <= tolerance, f"start {start}, {dtype}: off by {error:.2e}"

    def test_synthesis_at_a_start_is_what_the_coarser_bands_make(self) -> None:
        """The bands k >= s of an image are those of its image at scale s."""
        d, x = self.make(), self.image()
        bands = d.analyze(x)
        for start in range(d.levels):
            for k, band in d.analyze(coarse_image(d, bands, start), start).items():
                assert (band - bands[k]).abs().max() <= 1e-11, f"band {k} at start {start}"

    def test_linearity(self) -> None:
        """analyze(a x + b y) = a analyze(x) + b analyze(y)."""
        d, x, y = self.make(), self.image(key=1), self.image(key=2)
        first, second = d.analyze(x), d.analyze(y)
        mixed = {k: 2.5 * first[k] - 0.5 * second[k] for k in first}
        assert near(d.analyze(2.5 * x - 0.5 * y), mixed, 1e-11)

    def test_bands_come_coarse_to_fine_in_the_declared_shapes(self) -> None:
        """analyze and bands name the same scales in the same shapes, which do not depend on the batch."""
        d, x = self.make(), self.image()
        declared = d.bands(tuple(x.shape[1:]))
        found = d.analyze(x)
        assert list(found) == list(declared) == list(reversed(range(d.levels)))
        for k, band in found.items():
            assert tuple(band.shape) == (2, *declared[k].shape)
            assert declared[k].scale == k

    def test_projector(self) -> None:
        """project is idempotent, symmetric, and leaves what analyze returns alone."""
        d, x = self.make(), self.image()
        for k, band in d.analyze(x).items():
            assert (d.project(band, k) - band).abs().max() <= 1e-12, f"project changes an analysed band {k}"
            u, v = normal(*band.shape, key=("u", k)), normal(*band.shape, key=("v", k))
            once = d.project(u, k)
            assert (d.project(once, k) - once).abs().max() <= 1e-12, f"project is not idempotent in band {k}"
            assert abs(float((once * v).sum() - (u * d.project(v, k)).sum())) <= 1e-9, (
                f"project is not orthogonal in band {k}"
            )

    def test_declared_stds_are_those_of_the_operator(self) -> None:
        """pixel_std and direction_std, from the covariance of each band of a white image."""
        d = self.make()
        shape = (self.channels, *self.sizes())
        basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        declared = d.bands(shape)
        for k, columns in d.analyze(basis).items():
            operator = columns.flatten(1).T  # one column per pixel of the image
            covariance = operator @ operator.T
            stds = covariance.diagonal().sqrt()
            error = relative(stds, torch.full_like(stds, declared[k].pixel_std))
            assert error <= 1e-9, f"pixel_std of band {k}"
            directions = torch.linalg.eigvalsh(covariance)
            alive = directions[directions > 1e-9 * directions.max()].sqrt()
            error = relative(alive, torch.full_like(alive, declared[k].direction_std))
            assert error <= 1e-9, f"direction_std of band {k}"
            identity = torch.eye(operator.shape[0], dtype=torch.float64).reshape(-1, *columns.shape[1:])
            rank, trace = len(alive), float(d.project(identity, k).flatten(1).diagonal().sum())
            assert abs(trace - rank) <= 1e-6, f"project has rank {trace:g} in band {k}, the band {rank}"

    def test_gain(self) -> None:
        """A constant image is gain(s) times itself at scale s, and gain(0) is 1."""
        d = self.make()
        constant = torch.full_like(self.image(), 0.7)
        bands = d.analyze(constant)
        for start in range(d.levels):
            error = (coarse_image(d, bands, start) - 0.7 * d.gain(start)).abs().max()
            assert error <= 1e-11, f"gain({start})"

    def test_gradients_flow(self) -> None:
        """Differentiable, and by linearity the gradient of sum w.analyze(x) does not depend on x."""
        d = self.make()
        gradients = []
        for key in (1, 2):
            x = self.image(key=key).requires_grad_()
            total = torch.stack([(normal(*b.shape, key=k) * b).sum() for k, b in d.analyze(x).items()]).sum()
            gradients.append(torch.autograd.grad(total, x)[0])
        assert gradients[0].abs().max() > 0
        assert (gradients[0] - gradients[1]).abs().max() <= 1e-11

    def test_factors_are_those_of_the_images(self) -> None:
        """The image at scale s is `factors(s)` times as long as the one at s + 1, along each axis."""
        d, x = self.make(), self.image()
        bands = d.analyze(x)
        for k in range(d.levels - 1):
            fine, coarse = (coarse_image(d, bands, s).shape[2:] for s in (k, k + 1))
            assert [c * f for c, f in zip(coarse, d.factors(k), strict=True)] == list(fine)
            assert d.size_at(x.shape[2:], k) == tuple(fine)

    def test_a_size_that_does_not_divide_is_refused(self) -> None:
        """A SizeError with sizes that would work, from analyze and bands; so for another number of axes."""
        d = self.make()
        whole = [2 * multiple for multiple in d.multiple()]
        wrong = [[*whole, 8], whole[1:]]
        for axis, multiple in enumerate(d.multiple()):
            if multiple > 1:
                wrong.append([size + (i == axis) for i, size in enumerate(whole)])
        for sizes in wrong:
            analyze = functools.partial(d.analyze, torch.zeros(1, 1, *sizes))
            for call in (analyze, functools.partial(d.bands, (1, *sizes))):
                error = error_of(SizeError, call)
                assert getattr(error, "expected", None), "the error says which sizes would work"


def coarse_image(d: Decomposition, bands: State, start: int) -> Tensor:
    """The image at scale `start`, from the bands of an image."""
    return d.synthesize({k: band for k, band in bands.items() if k >= start}, start)
