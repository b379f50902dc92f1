"""Windows of the electrocardiogram that PyWavelets ships (1,024 samples, MIT-BIH arrhythmia database).

The first part of the recording is the train split, the last part the test split; no window spans both.
"""

from __future__ import annotations

import functools
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.dataset import Dataset, Sample, Split
from lapflow.core.errors import BackendError, ConfigError, DataError
from lapflow.core.state import Shape


class ECG(Dataset):
    """Every window of `length` samples, one channel, no classes; the whole recording ranges over [-1, 1]."""

    def __init__(
        self,
        *,
        length: Annotated[int, Field(ge=2, description="samples in a window")] = 64,
        held_out: Annotated[float, Field(ge=0, lt=1, description="share of the recording to test on")] = 0.25,
    ) -> None:
        self.length, self.held_out = length, held_out

    @property
    def shape(self) -> Shape:
        return 1, self.length

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    def size(self, split: Split) -> int:
        return max(0, len(self._part(split)) - self.length + 1)

    def read(self, split: Split, index: int) -> Sample:
        if not 0 <= index < self.size(split):
            raise DataError(
                f"there is no window {index} in the {split} split",
                expected=f"0 <= index < {self.size(split)}",
            )
        return Sample(self._part(split)[None, index : index + self.length].clone())

    def _part(self, split: Split) -> Tensor:
        series = recording()
        if self.length > len(series):
            raise ConfigError(
                "the windows are longer than the series",
                got=f"length {self.length}",
                expected=f"up to {len(series)}",
            )
        cut = len(series) - round(self.held_out * len(series))
        return series[:cut] if split == "train" else series[cut:]


@functools.cache
def recording() -> Tensor:
    """The whole series [1024], its range mapped to [-1, 1]."""
    try:
        import pywt.data
    except ImportError as error:
        raise BackendError(
            "the series ecg comes with PyWavelets, which cannot be imported",
            got=str(error),
            remedy="pip install 'lapflow[wavelets]'",
        ) from error
    values = torch.as_tensor(pywt.data.ecg(), dtype=torch.float32)
    low, high = values.min(), values.max()
    return 2 * (values - low) / (high - low) - 1
