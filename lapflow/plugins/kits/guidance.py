"""The guidance contract: the scales that came, equal predictions left alone, nothing computed where it is
off."""

from __future__ import annotations

from typing import ClassVar

from lapflow.core.guidance import Guidance
from lapflow.core.state import State, map_state
from lapflow.plugins.kits.base import Conformance, normal


class GuidanceConformance(Conformance):
    """`levels` is the number of scales of the composition that `make()`'s guidance is for."""

    kind = "guidance"
    levels: ClassVar[int] = 2

    def make(self) -> Guidance:
        raise NotImplementedError("override make() to return the guidance under test")

    def prediction(self, key: str, active: int) -> State:
        return {
            k: normal(2, 4, 4 >> k, 4 >> k, key=(key, k))
            for k in range(self.levels - 1, self.levels - 1 - active, -1)
        }

    def test_active_is_an_answer_at_every_time(self) -> None:
        """A bool at every time."""
        assert all(isinstance(self.make().active(i / 8), bool) for i in range(9))

    def test_the_scales_that_came_in_their_order(self) -> None:
        """For every number of active scales, shapes and dtypes kept."""
        for active in range(1, self.levels + 1):
            conditional, unconditional = self.prediction("c", active), self.prediction("u", active)
            out = self.make().combine(conditional, unconditional, self.levels)
            assert list(out) == list(conditional)
            assert all(out[k].shape == x.shape and out[k].dtype == x.dtype for k, x in conditional.items())

    def test_equal_predictions_are_left_alone(self) -> None:
        """Where the condition makes no difference, there is nothing to guide."""
        v = self.prediction("c", self.levels)
        out = self.make().combine(v, v, self.levels)
        assert all((out[k] - v[k]).abs().max() <= 1e-12 for k in v)

    def test_it_shifts_with_both_predictions(self) -> None:
        """Adding one field to both adds it to the result."""
        guidance = self.make()
        c, u, w = (self.prediction(key, self.levels) for key in "cuw")
        plain = guidance.combine(c, u, self.levels)
        moved = guidance.combine(
            map_state(lambda a, b: a + b, c, w), map_state(lambda a, b: a + b, u, w), self.levels
        )
        assert all((moved[k] - plain[k] - w[k]).abs().max() <= 1e-10 for k in w)
