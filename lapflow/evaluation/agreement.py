"""Does a classifier trained on real images see in a sample the class that was asked for?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lapflow.core.errors import BackendError, DataError
from lapflow.features.pixels import PixelFeatures


def svm_agreement(train_images: Tensor, train_labels: Tensor, images: Tensor, labels: Tensor) -> float:
    """The share of `images` [b, c, h, w] that a support vector machine trained on real images assigns to
    their `labels` [b].

    scikit-learn's SVC(gamma=0.001, C=10) on pixels in grey levels 0..16: the kernel width of scikit-learn's
    digits example, on which it classifies 99 % of held-out digits. Pixels of larger images are poor features:
    take another classifier there. Raises `BackendError` without scikit-learn, `DataError` without images or
    with one class only.
    """
    judge = svm_classifier(train_images, train_labels)
    if not len(images):
        raise _unmeasurable("no images")
    return int((judge(images) == labels.cpu()).sum()) / len(images)


def svm_classifier(train_images: Tensor, train_labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The machine of `svm_agreement`, trained once: images [b, c, h, w] -> the class it sees in each, [b]."""
    machine = require_sklearn()(gamma=0.001, C=10)
    if len(train_labels.unique()) < 2:
        raise _unmeasurable(f"{len(train_labels.unique())} classes in training")
    features = PixelFeatures(grey_levels=16)
    machine.fit(features(train_images).cpu().numpy(), train_labels.cpu().numpy())
    return lambda images: torch.from_numpy(machine.predict(features(images).cpu().numpy()))


def _unmeasurable(got: str) -> DataError:
    return DataError(
        "the agreement of classes cannot be measured", got=got, expected="at least one image, and two classes"
    )


def require_sklearn() -> Any:
    """scikit-learn's SVC. Raises `BackendError` without it."""
    try:
        from sklearn.svm import SVC
    except ImportError as error:
        raise BackendError(
            "the agreement of classes needs scikit-learn, which cannot be imported",
            got=str(error),
            remedy="pip install 'lapflow[demo]'",
        ) from error
    return SVC
