"""The resolution transition of Pyramidal Flow (Jin et al. 2024) and EdifyImage (NVIDIA 2024), one formula:

    x_fine = a U(x_coarse) + sigma H eps,        H = I - U D,

whose noise is white of std sigma exactly when c a sigma_c = sigma, with sigma_c the std of the coarse state's
white noise and c = 2^(n/2) for n halved axes, 2 in images. Band by band: the coarser bands are multiplied by
a, the new band joins as noise. So a is not free: it is the ratio of the noise that the path has after and
before, and the mean must follow. Pyramidal Flow: a = s'/e = (1 + s')/2; EdifyImage: a = 1. In the
literature's form the new noise is correlated between the pixels of a block by gamma = -1/(2^n - 1), -1/3 in
images: that is H eps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from lapflow.core.bridge import Bridge, entering
from lapflow.core.intervals import Segment
from lapflow.core.path import Path
from lapflow.core.state import State, scalar_time


class TransitionBridge(Bridge):
    """The scales in progress are rescaled to the noise level at which the next segment starts, a new scale
    joins as noise."""

    def cross(
        self,
        state: Mapping[int, Tensor],
        noise: Sequence[Mapping[int, Tensor]],
        before: Segment | None,
        after: Segment,
        path: Path,
    ) -> State:
        out = {}
        for k in after.scales:
            if before is None or k not in state:
                out[k] = entering(noise[0], after, k, path)
            else:
                out[k] = state[k] * jump(before, after, k, path)
        return out


def jump(before: Segment, after: Segment, scale: int, path: Path) -> float:
    """a: the noise of band `scale` at the start of `after` over its noise at the end of `before`."""
    left = path.coefficients(scalar_time(path.solve_t_max(before)), before, scale)
    right = path.coefficients(scalar_time(after.sampling_start), after, scale)
    return (right.sigma * after.noise_scale / (left.sigma * before.noise_scale)).item()
