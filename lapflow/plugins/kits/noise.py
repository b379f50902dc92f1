"""The noise contract: a linear map of white draws, with the stated stds, a function of its generator."""

from __future__ import annotations

from typing import ClassVar

import torch

from lapflow.core.decomposition import Decomposition
from lapflow.core.noise import Noise
from lapflow.core.state import Shape, State
from lapflow.plugins.kits.base import Conformance, normal, relative
from lapflow.util.random import keyed_generator


class NoiseConformance(Conformance):
    """`decomposition` is the context in which the noise is made; `shape` (c, *sizes) that of a sample."""

    kind = "noise"
    decomposition: ClassVar[Decomposition]
    shape: ClassVar[Shape] = (1, 8, 8)

    def make(self) -> Noise:
        raise NotImplementedError("override make() to return the noise under test, of self.decomposition")

    def white(self, rows: int, key: int) -> dict[int, torch.Tensor]:
        shapes = self.make().white_shapes(self.shape)
        return {k: normal(rows, *shape, key=(key, k)) for k, shape in shapes.items()}

    def test_it_is_a_linear_map_of_white_draws(self) -> None:
        """So that the law check can compare operators."""
        noise, a, b = self.make(), self.white(2, 0), self.white(2, 1)
        both = noise.from_white({k: 2 * a[k] - 3 * b[k] for k in a})
        first, second = noise.from_white(a), noise.from_white(b)
        assert all(relative(both[k], 2 * first[k] - 3 * second[k]) <= 1e-12 for k in both)

    def test_it_has_the_shapes_of_the_bands(self) -> None:
        """Every band, coarse to fine."""
        found, bands = self.make().from_white(self.white(2, 0)), self.decomposition.bands(self.shape)
        assert list(found) == list(bands)
        assert all(tuple(found[k].shape[1:]) == bands[k].shape for k in bands)

    def test_stds_are_as_stated(self) -> None:
        """White noise in a band has `direction_std` in the directions of its range, `dead_std` outside."""
        noise = self.make()
        if not noise.white:
            return
        for k, band in self.decomposition.bands(self.shape).items():
            columns = self._columns(noise, k)
            inside = self.decomposition.project(columns, k)
            outside = (columns - inside).flatten(1)
            inside = inside.flatten(1)
            found = torch.linalg.eigvalsh(inside.T @ inside).clamp(min=0).sqrt()
            alive = found[found > 1e-6 * found.max()]
            assert relative(alive, torch.full_like(alive, noise.direction_std(band))) <= 1e-9, f"band {k}"
            if dimensions := inside.shape[1] - len(alive):
                dead = float((outside.square().sum() / dimensions).sqrt())
                assert abs(dead - noise.dead_std(band)) <= 1e-9, f"outside the range of band {k}"

    def _columns(self, noise: Noise, scale: int) -> torch.Tensor:
        """The band of each white draw set to 1 in turn: the columns of the linear map."""
        columns = []
        shapes = noise.white_shapes(self.shape)
        for k, shape in shapes.items():
            identity = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).reshape(-1, *shape)
            zeros = {j: torch.zeros(len(identity), *s, dtype=torch.float64) for j, s in shapes.items()}
            columns.append(noise.from_white({**zeros, k: identity})[scale])
        return torch.cat(columns)

    def test_draws_are_a_function_of_the_generator(self) -> None:
        """The same generator gives the same pyramid."""

        def drawn(seed: int) -> State:
            generator = keyed_generator("noise", seed)
            return self.make().draw(self.shape, 3, generator, dtype=torch.float32, device="cpu")

        first, again, other = drawn(0), drawn(0), drawn(1)
        assert all(torch.equal(first[k], again[k]) and not torch.equal(first[k], other[k]) for k in first)
