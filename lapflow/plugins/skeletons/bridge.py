"""The scales in progress go on; a new one joins as noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from lapflow.core.bridge import Bridge, entering
from lapflow.core.intervals import Segment
from lapflow.core.path import Path
from lapflow.core.state import State


class Skeleton(Bridge):
    """A scale enters as `strength` times the noise that its path has there.

    At 1 the sampler follows the law that training assumes. The law check refuses any other number: try it.
    """

    def __init__(
        self,
        *,
        strength: Annotated[
            float, Field(gt=0, description="factor of the noise of a scale that enters")
        ] = 1.0,
    ) -> None:
        self.strength = strength

    def cross(
        self,
        state: Mapping[int, Tensor],
        noise: Sequence[Mapping[int, Tensor]],
        before: Segment | None,
        after: Segment,
        path: Path,
    ) -> State:
        return {
            k: state[k] if k in state else self.strength * entering(noise[0], after, k, path)
            for k in after.scales
        }
