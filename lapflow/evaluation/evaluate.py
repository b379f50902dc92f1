"""All the measures of a set of samples, in one mapping of plain numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lapflow.core.dataset import SPLITS, Dataset
from lapflow.core.features import FeatureExtractor
from lapflow.data.loader import load_split
from lapflow.evaluation.distances import Statistics, frechet_distance
from lapflow.evaluation.neighbours import CopyReport, copies
from lapflow.evaluation.real import Measured
from lapflow.features.pixels import PixelFeatures

Classifier = Callable[[Tensor, Tensor, Tensor, Tensor], float]
"""(training images, training labels, images, labels) -> share of images whose class it sees as labelled."""

MEANINGS = {
    "frechet": "Frechet distance of the samples to the held-out images; lower is better",
    "frechet_real": "the same for the real training images: what samples of the training law would get",
    "frechet_to_training": "Frechet distance of the samples to the training images: the set has no held-out "
    "ones",
    "frechet_ratio": "frechet / frechet_real; 1 is as near to held-out images as the training images are",
    "kid": "kernel distance of the samples to the real images (KID in Inception's features): mean over "
    "subsets; lower is better, about 0 for images of the same law",
    "kid_std": "its standard deviation over the subsets",
    "precision": "share of samples that lie among the real images: do they look real?",
    "recall": "share of real images that lie among the samples: is all that is real sampled?",
    "agreement": "share of samples in which a classifier trained on real images sees the class asked for",
    "agreement_real": "the same classifier on the held-out real images",
    "copies.copies": "samples that are copies of a training image (exact, or nearer than any two real "
    "images)",
    "copies.exact": "of these, equal after rounding to grey levels",
    "copies.near": "of these, not equal, but nearer than any two different real images are to each other",
    "copies.threshold": "distance between the two most similar real images, in grey levels",
    "copies.closest": "distance of the closest sample to a training image",
    "copies.median": "median distance of a sample to its nearest training image",
    "copies.held_out_closest": "the same for held-out real images",
    "copies.held_out_median": "the same for held-out real images; a memorising model's samples are much "
    "nearer",
    "counts.samples": "images evaluated",
    "counts.train": "training images compared with",
    "counts.test": "held-out images compared with",
    "counts.unreadable": "real images left out of both, since they cannot be read",
    "counts.replaced": "training images that could not be read; training took others in their place "
    "(quarantine.jsonl)",
    "data_changes": "how the real images differ from those that the run was trained on",
    "made_with.solver": "the solver, and its steps in each segment",
    "made_with.evaluations": "network evaluations per sample; a guided pair counts once",
    "made_with.tolerance": "relative and absolute tolerance of an adaptive solver",
    "made_with.guidance": "scale of classifier-free guidance; 1 is off",
    "made_with.batch_size": "samples drawn at once; an adaptive solver's steps are the batch's",
    "made_with.weights": "averaged (ema) or raw weights",
    "made_with.ema_decay": "decay of the average",
    "made_with.step": "training step of the checkpoint",
    "made_with.seed": "sample i is a function of (seed, i) and its class",
    "measured_in.features": "what images are compared in",
    "measured_in.extractor": "SHA-256 of what the features depend on: weights, resizing, settings",
    "measured_in.length": "numbers in the features of an image",
    "measured_in.resize": "how images came to the extractor's size; figures of other resizing cannot be "
    "compared",
    "measured_in.against": "the real images that samples are compared with: held-out (test) or training "
    "(train) ones",
    "measured_in.data": "SHA-256 of what the real images are known by",
    "measured_in.kept": "features of the samples, and of the real images, for kernel distance, precision "
    "and recall",
    "measured_in.kid": "subsets of the kernel distance",
    "measured_in.neighbours": "the k of precision and recall",
}


def evaluate_images(
    images: Tensor,
    labels: Tensor | None,
    dataset: Dataset,
    features: FeatureExtractor | None = None,
    classifier: Classifier | None = None,
    max_images: int = 50_000,
) -> dict[str, Any]:
    """Measure samples [n, c, h, w] in [-1, 1], n >= 2, against the real images of `dataset`; keys as in
    `MEANINGS`.

    `labels` [n] are the classes asked for. `features` default to `PixelFeatures`. `agreement` is there only
    with labels and a `classifier`, the figures of held-out images only where the set has a test split (at
    least two images); without it there is `frechet_to_training` in place of the three. Of each split at most
    `max_images` images, evenly spaced, are used, and held in memory; those that cannot be read are left out
    and counted. Raises `DataError` when of a split none can be read. The bias of finite sets is a good part
    of these distances on small sets: compare ratios at equal numbers of samples only. What does not fit in
    memory is measured by `lapflow.evaluation.run.evaluate_run`.
    """
    features = features or PixelFeatures(grey_levels=dataset.grey_levels)
    train, train_labels = load_split(dataset, "train", max_images)
    test, test_labels = load_split(dataset, "test", max_images)
    made, training = (Measured.of(x, features).statistics for x in (images, train))
    held_out = Measured.of(test, features).statistics if len(test) >= 2 else None
    metrics = frechet_figures(made, training, held_out)
    if classifier is not None and labels is not None and dataset.num_classes > 1:
        metrics["agreement"] = classifier(train, train_labels, images, labels)
        if len(test):
            metrics["agreement_real"] = classifier(train, train_labels, test, test_labels)
    metrics["copies"] = copy_figures(copies(images, train, test, dataset.grey_levels))
    counts = {"samples": len(images), "train": len(train), "test": len(test)}
    wanted = sum(min(max_images, dataset.size(split)) for split in SPLITS)
    metrics["counts"] = {**counts, "unreadable": wanted - len(train) - len(test)}
    return metrics


def frechet_figures(samples: Statistics, training: Statistics, held_out: Statistics | None) -> dict[str, Any]:
    """The distance of the samples to the held-out images, that of the training images, and their ratio;
    without held-out images the distance to the training images."""
    if held_out is None:
        return {"frechet_to_training": frechet_distance(samples, training)}
    distance, real = frechet_distance(samples, held_out), frechet_distance(training, held_out)
    return {"frechet": distance, "frechet_real": real, "frechet_ratio": distance / real if real > 0 else None}


def copy_figures(report: CopyReport) -> dict[str, Any]:
    """The report as the metrics hold it."""
    figures = {name: value for name, value in vars(report).items() if name != "samples"}
    return {"copies": report.copies, **figures}
