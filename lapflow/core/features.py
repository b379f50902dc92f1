"""Contract: what sets of images are compared in, and what a bad extractor is told."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.errors import DataError, PluginError


class FeatureExtractor(Component):
    """Maps images to vectors. Context: `grey_levels` of the data set, the `device` of a network."""

    kind = "features"
    context = ("grey_levels", "device")

    def load(self) -> None:
        """Bring what it needs. Called before work starts, so that what is missing is said then."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Images [b, c, h, w] in [-1, 1], perhaps beyond -> features [b, f], float64. Mixes no images."""

    @property
    def resize(self) -> str:
        """How it resizes images, in words: figures of other resizing cannot be compared."""
        return "not stated"

    @property
    def runs_code(self) -> bool:
        """Whether its arguments name code that it runs. Such a component is used where a person names it, in
        a config or a command, and never because a checkpoint does."""
        return False

    def identity(self) -> dict[str, Any]:
        """What features depend on, as JSON values: figures of equal identities can be compared.

        By default the class and all of its config. An extractor with weights names these by a hash, and
        leaves out where they lie. Called after `load`.
        """
        return {"class": type(self).__qualname__, **self.config}

    @property
    def sha256(self) -> str:
        """The SHA-256 of the identity."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


def extract(extractor: FeatureExtractor, images: Tensor) -> Tensor:
    """The features [b, f] of images [b, c, h, w], b >= 1, on the CPU. Raises `PluginError` for an extractor
    that gives something else, `DataError` for features that are not finite."""
    features = extractor(images)
    fits = isinstance(features, Tensor) and features.ndim == 2 and len(features) == len(images)
    if not fits or features.shape[1] < 1:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise PluginError(
            "the feature extractor does not give one vector per image",
            got=f"{type(extractor).__name__}: {found} for {len(images)} images",
            expected=f"a tensor of shape ({len(images)}, f)",
        )
    if features.dtype != torch.float64:
        raise PluginError(
            "the feature extractor gives another dtype",
            got=f"{type(extractor).__name__}: {features.dtype}",
            expected="torch.float64",
        )
    if not bool(torch.isfinite(features).all()):
        raise DataError(
            "features are not finite numbers",
            remedy="look at the samples: a diverged model makes such images",
        )
    return features.detach().cpu()
