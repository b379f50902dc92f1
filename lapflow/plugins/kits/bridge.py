"""The bridge contract: affine in (state, noise), over the right scales. Its law is checked by `Flow`
(`flows.laws`)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.bridge import Bridge, ConditionalBridge
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, Path
from lapflow.core.state import State, map_state
from lapflow.plugins.kits.base import Conformance, normal
from lapflow.plugins.kits.path import TWO_SCALES


class StraightPath(Path):
    """alpha = (t - T) / (1 - T), sigma = 1 - t: a path for a bridge to be tried with."""

    def coefficients(self, t: Tensor, segment: Segment, scale: int) -> Coefficients:
        start, u, rate = segment.scale_starts[scale], segment.local_time(t), segment.rate
        one = rate * torch.ones_like(t)
        return Coefficients((u - start) / (1 - start), 1 - u, one / (1 - start), -one)


class BridgeConformance(Conformance):
    """Crossings at the start and between two segments, of samples with `axes` axes."""

    kind = "bridge"
    axes: ClassVar[int] = 2
    segments: ClassVar[tuple[Segment, ...]] = TWO_SCALES

    def make(self) -> Bridge:
        raise NotImplementedError("override make() to return the bridge under test")

    @property
    def shapes(self) -> dict[int, tuple[int, ...]]:
        return {1: (2, 1, *[4] * self.axes), 0: (2, 1, *[8] * self.axes)}

    def noise(self, key: str) -> State:
        return {k: normal(*shape, key=(key, k)) for k, shape in self.shapes.items()}

    def cross(self, index: int, state: State, noise: State) -> State:
        before = self.segments[index - 1] if index else None
        bridge = self.make()
        # The same pyramid in every place: what is tried here does not depend on which one a bridge takes.
        return bridge.cross(
            state,
            [noise] * bridge.num_noise_draws(len(self.segments)),
            before,
            self.segments[index],
            StraightPath(),
        )

    def crossings(self) -> list[tuple[int, State]]:
        """(segment entered, the state before it)."""
        states: list[tuple[int, State]] = [(0, {})]
        for i, segment in enumerate(self.segments[:-1]):
            states.append((i + 1, {k: normal(*self.shapes[k], key=("state", k)) for k in segment.scales}))
        return states

    def test_the_state_after_holds_the_segment_s_scales(self) -> None:
        """Coarse to fine, in the bands' shapes."""
        for index, state in self.crossings():
            out = self.cross(index, state, self.noise("a"))
            assert list(out) == list(self.segments[index].scales)
            assert all(tuple(x.shape) == self.shapes[k] for k, x in out.items())

    def test_linear_in_state_and_noise(self) -> None:
        """cross(a u + b v) = a cross(u) + b cross(v), and nothing comes from nothing."""
        for index, state in self.crossings():
            other = map_state(lambda x: x.flip(-1), state)
            first, second = (
                self.cross(index, state, self.noise("a")),
                self.cross(index, other, self.noise("b")),
            )
            mixed = self.cross(
                index,
                map_state(lambda x, y: 2 * x - 3 * y, state, other),
                map_state(lambda x, y: 2 * x - 3 * y, self.noise("a"), self.noise("b")),
            )
            for k, x in mixed.items():
                assert (x - (2 * first[k] - 3 * second[k])).abs().max() <= 1e-11

    def test_a_pure_function_that_leaves_its_arguments_alone(self) -> None:
        """Twice the same, and neither state nor noise is written to."""
        for index, state in self.crossings():
            noise = self.noise("a")
            kept = {k: x.clone() for k, x in state.items()}, {k: x.clone() for k, x in noise.items()}
            first, again = self.cross(index, state, noise), self.cross(index, state, noise)
            assert all(torch.equal(first[k], again[k]) for k in first)
            assert all(torch.equal(state[k], x) for k, x in kept[0].items())
            assert all(torch.equal(noise[k], x) for k, x in kept[1].items())

    def test_samples_do_not_mix(self) -> None:
        """A sample's crossing depends on its own state and noise."""
        for index, state in self.crossings():
            noise = self.noise("a")
            whole = self.cross(index, state, noise)
            alone = self.cross(
                index, {k: x[:1] for k, x in state.items()}, {k: x[:1] for k, x in noise.items()}
            )
            assert all((whole[k][:1] - alone[k]).abs().max() <= 1e-12 for k in whole)

    def test_a_condition_is_affine_and_of_the_next_segment(self) -> None:
        """A conditional bridge's `corrupt` gives the next segment's bands, linear in image and noise; level 0
        leaves the image."""
        bridge = self.make()
        if not isinstance(bridge, ConditionalBridge):
            return
        before, after = self.segments[0], self.segments[1]
        image = {k: normal(*self.shapes[k], key=("image", k)) for k in before.scales}
        level = torch.full((2,), bridge.corruption_level, dtype=torch.float64)
        out = bridge.corrupt(image, self.noise("c"), level, before, after)
        assert list(out) == list(after.scales)
        doubled = map_state(lambda x: 2 * x, image), map_state(lambda x: 2 * x, self.noise("c"))
        twice = bridge.corrupt(*doubled, level, before, after)
        assert all((twice[k] - 2 * out[k]).abs().max() <= 1e-11 for k in out)
        clean = bridge.corrupt(image, self.noise("c"), torch.zeros(2, dtype=torch.float64), before, after)
        assert all(
            (clean[k] - image[k]).abs().max() <= 1e-12 if k in image else not bool(clean[k].any())
            for k in clean
        )
        drawn = bridge.draw_corruption_level(torch.linspace(0, 0.999, 7))
        assert bool((drawn >= 0).all())
        assert bool((drawn < 1).all())
