"""A total number of steps, shared out among a flow's segments."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lapflow.core.errors import ConfigError
from lapflow.core.intervals import Segment


def share_steps(total: int, segments: Sequence[Segment]) -> list[int]:
    """`total` steps as numbers of steps per segment, in time order: by the segments' lengths in t, at
    least one each.

    Whole numbers nearest to the exact shares, the earlier segment first where two are as near. Raises
    `ConfigError` for fewer steps than segments.
    """
    if total < len(segments):
        raise ConfigError(
            "every segment needs a step", got=f"{total} steps", expected=f"at least {len(segments)}"
        )
    lengths = [segment.stop - segment.start for segment in segments]
    exact = [total * length / sum(lengths) for length in lengths]
    steps = [max(1, math.floor(share)) for share in exact]
    while sum(steps) != total:
        missing = sum(steps) < total
        # Who lacks most gets one; who has most too many, and more than one, gives one.
        gaps = [share - n for share, n in zip(exact, steps)]
        ranked = [gap if missing else -gap if n > 1 else -math.inf for gap, n in zip(gaps, steps)]
        steps[max(range(len(steps)), key=ranked.__getitem__)] += 1 if missing else -1
    return steps
