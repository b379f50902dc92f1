"""Orthonormal wavelet pyramid, periodized, each level exactly half the size (Mallat 1989; Daubechies 1988).

One level halves n axes and splits a sample into its low-pass part and m = 2^n - 1 details. Band K-1 is the
last low-pass part [c, *sizes]; band k < K-1 holds the m details of level k+1 as m c channels, of half the
size along the halved axes (channel m i + d of input channel i: bit a of d + 1 says whether the a-th halved
axis is high-passed; in an image d = 0 vertical high pass, 1 horizontal, 2 both: PyWavelets' cH, cV, cD). The
transform is orthonormal: no dead dimension, white noise stays white, a constant grows by 2^(n/2) per level.

Along an axis, with low-pass filter h of even length L and x periodic,

    a[k] = sum_n h[n] x[2k + L/2 - n],

as PyWavelets' mode "periodization" has it; the inverse is the transpose.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lapflow.core.decomposition import Band
from lapflow.core.errors import BackendError, ConfigError, suggest
from lapflow.core.state import Shape, State, StateView
from lapflow.pyramids.laplacian import AxesOption, HalvingPyramid, LevelsOption
from lapflow.util.autocast import in_own_dtype
from lapflow.util.transfer import upload

_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSED = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


class WaveletPyramid(HalvingPyramid):
    """Orthonormal wavelet pyramid: no dead dimensions, and the finer bands are half the sample's size."""

    def __init__(
        self,
        *,
        levels: LevelsOption = 2,
        axes: AxesOption = 2,
        wavelet: Annotated[
            str, Field(description="an orthogonal wavelet of PyWavelets, such as haar, db2, sym4, coif1")
        ] = "haar",
    ) -> None:
        super().__init__(levels=levels, axes=axes)
        low = low_pass(wavelet)
        high = low[::-1] * (-1.0) ** np.arange(len(low))
        # Rows are cross-correlation kernels: the filters reversed.
        self._kernels = torch.from_numpy(np.stack([low[::-1], -high[::-1]]))

    def analyze(self, x: Tensor, start: int = 0) -> State:
        self.check_size(x.shape[2:], start)
        dtype, x = x.dtype, _widen(x)
        details: list[tuple[int, Tensor]] = []
        for k in range(start, self.levels - 1):
            for axis in reversed(self._axes(k)):  # channels (c, last axis low/high, .., first axis low/high)
                x = self._split(x, axis)
            parts = x.unflatten(1, (-1, math.prod(self.factors(k))))
            x, detail = parts[:, :, 0], parts[:, :, 1:].flatten(1, 2)
            details.append((k, detail))
        return {self.levels - 1: x.to(dtype), **{k: detail.to(dtype) for k, detail in reversed(details)}}

    def synthesize(self, state: StateView, start: int = 0) -> Tensor:
        dtype, x = state[self.levels - 1].dtype, _widen(state[self.levels - 1])
        for k in range(self.levels - 2, start - 1, -1):
            details = _widen(state[k]).unflatten(1, (x.shape[1], -1))
            x = torch.cat([x.unsqueeze(2), details], dim=2).flatten(1, 2)
            for axis in self._axes(k):
                x = self._merge(x, axis)
        return x.to(dtype)

    def bands(self, shape: Shape) -> dict[int, Band]:
        c, *sizes = shape
        self.check_size(sizes)
        top = self.levels - 1
        found = {top: Band(top, c, self.size_at(sizes, top), 1.0, 1.0)}
        for k in reversed(range(top)):
            details = math.prod(self.factors(k)) - 1
            found[k] = Band(k, details * c, self.size_at(sizes, k + 1), 1.0, 1.0)
        return found

    def gain(self, scale: int) -> float:
        return self.contraction(scale)

    def _axes(self, scale: int) -> list[int]:
        """The dimensions of a tensor [b, c, *sizes] that are halved from `scale` to the next."""
        return [2 + axis for axis, factor in enumerate(self.factors(scale)) if factor == 2]

    def _split(self, x: Tensor, axis: int) -> Tensor:
        """Low and high pass along `axis`, each half as long, side by side: [b, c, ..] -> [b, 2c, ..]."""
        left = self._kernels.shape[1] // 2 - 1
        x = _wrap(x, axis, left, self._kernels.shape[1] - 2 - left)
        with in_own_dtype(x):
            return _CONVOLUTIONS[x.ndim](
                x, self._weight(x, axis, x.shape[1]), stride=_along(x, axis, 2), groups=x.shape[1]
            )

    def _merge(self, x: Tensor, axis: int) -> Tensor:
        """The transpose of `_split`: [b, 2c, ..] -> [b, c, ..], twice as long along `axis`."""
        length, size, channels = self._kernels.shape[1], 2 * x.shape[axis], x.shape[1] // 2
        pad = length // 2
        weight = self._weight(x, axis, channels)
        with in_own_dtype(x):
            full = _TRANSPOSED[x.ndim](
                _wrap(x, axis, pad, pad), weight, stride=_along(x, axis, 2), groups=channels
            )
        return full.narrow(axis, length // 2 - 1 + 2 * pad, size)

    def _weight(self, x: Tensor, axis: int, channels: int) -> Tensor:
        kernels = upload(self._kernels, x.device, x.dtype).repeat(channels, 1)
        return kernels.reshape(-1, 1, *_along(x, axis, kernels.shape[1]))


def _along(x: Tensor, axis: int, value: int) -> tuple[int, ...]:
    """`value` for `axis`, 1 for the other axes of `x` [b, c, *sizes]."""
    return tuple(value if dim == axis else 1 for dim in range(2, x.ndim))


def _widen(x: Tensor) -> Tensor:
    """Half precision is filtered in float32: torch's CPU kernel returns NaN for long bf16 filters."""
    return x if x.dtype == torch.float64 else x.float()


def _wrap(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Periodic continuation along `axis`, any number of turns (a filter may be longer than the signal)."""
    if before == after == 0:
        return x
    size = x.shape[axis]
    return x.index_select(axis, torch.arange(-before, size + after, device=x.device) % size)


def low_pass(name: str) -> np.ndarray:
    """The decomposition low-pass filter of an orthogonal wavelet, orthonormal to rounding.

    Haar needs nothing; the others are read from PyWavelets. Its tables hold some families to 1e-11 only, so
    the filter is moved to the nearest one whose even shifts are orthonormal, by Gauss-Newton steps on
    sum_n h[n] h[n + 2m] = delta_m. Raises `ConfigError` for an unknown or a non-orthogonal wavelet.
    """
    if name in ("haar", "db1"):
        return np.full(2, 0.5**0.5)
    try:
        import pywt
    except ImportError as error:
        raise BackendError(
            f"the wavelet {name!r} needs PyWavelets: {error}",
            remedy="pip install 'lapflow[wavelets]', or use wavelet=haar",
        ) from None
    known = pywt.wavelist(kind="discrete")
    if name not in known:
        raise ConfigError("unknown wavelet", got=repr(name), expected=suggest(name, known))
    low = np.array(pywt.Wavelet(name).dec_lo)
    if not pywt.Wavelet(name).orthogonal or np.abs(_orthonormality(low)).max() > 1e-6:
        raise ConfigError(
            f"the wavelet {name!r} is not orthogonal",
            got=name,
            expected="an orthogonal one: haar, dbN, symN, coifN",
        )
    for _ in range(3):
        shifted = np.pad(low, len(low))
        sums = [np.roll(shifted, 2 * m) + np.roll(shifted, -2 * m) for m in range(len(low) // 2)]
        jacobian = np.array(sums)[:, len(low) : 2 * len(low)]
        low = low - np.linalg.lstsq(jacobian, _orthonormality(low), rcond=None)[0]
    return low


def _orthonormality(low: np.ndarray) -> np.ndarray:
    """sum_n h[n] h[n + 2m] - delta_m for m = 0 .. L/2 - 1."""
    size = len(low)
    return np.array([low[: size - 2 * m] @ low[2 * m :] - (m == 0) for m in range(size // 2)])
