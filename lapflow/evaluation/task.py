"""One evaluation, phase by phase: what can be missing, the real images, the samples, the figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lapflow.config.building import build_features, build_images
from lapflow.config.loading import resolved
from lapflow.config.schema import Config
from lapflow.core.dataset import SPLITS, Split
from lapflow.core.engine import Engine
from lapflow.core.errors import ConfigError, DataError
from lapflow.core.features import extract
from lapflow.data.loader import spaced
from lapflow.data.quarantine import QUARANTINE, listed
from lapflow.evaluation.agreement import require_sklearn, svm_classifier
from lapflow.evaluation.distances import kernel_distance, require_subsets
from lapflow.evaluation.evaluate import copy_figures, frechet_figures
from lapflow.evaluation.neighbours import (
    copy_report,
    nearest_distances,
    precision_recall,
    require_neighbours,
    whole_levels,
)
from lapflow.evaluation.real import (
    FEATURES,
    ROWS,
    Measured,
    RealImages,
    measured,
    read_reference,
    write_reference,
)
from lapflow.evaluation.report import made_with, words, write_archive
from lapflow.evaluation.resumable import Counter, ResumableLoop, Workspace, uncounted
from lapflow.plugins.registry import create
from lapflow.sampling.pictures import to_uint8
from lapflow.sampling.pipeline import Pipeline
from lapflow.util.digest import tensors_sha256

COMPARED = {"frechet", "kid", "precision-recall"}
"""The metrics that compare features with those of real images."""

WITH_FEATURES = {"kid", "precision-recall"}
"""Those of them that need the features themselves, not only their mean and covariance."""

MAX_HELD = 8 * 2**30
"""Bytes of real images that copies and a classifier may hold in memory, in each process."""


@dataclass
class Task:
    """An evaluation of `num` samples of `pipeline` as `config.evaluation` says, by the processes of `engine`.

    `guidance` None: the config's. Every process makes one and calls `measure`.
    """

    run: Path
    pipeline: Pipeline
    config: Config
    engine: Engine
    num: int
    solver: Mapping[str, Any]
    guidance: float | None
    seed: int
    batch_size: int
    npz: Path | None = None
    counter: Counter = uncounted

    def measure(self, out: Path, report: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The metrics. Unfinished work is kept in `out` until rank 0 has made its `report`. Collective."""
        self.engine.jointly(self.prepare)
        workspace = Workspace(out, self.engine, self.counter)
        try:
            real = self.measure_real(workspace)
            samples = self.measure_samples(workspace)
            figures = self.engine.first(lambda: self.figures(real, samples))
            metrics: dict[str, Any] = self.engine.exchange(figures)[0]
            self.engine.first(lambda: report(metrics))
            workspace.clear()
            return metrics
        finally:
            workspace.close()

    # ------------------------------------------------------------------ what is missing is missed before work

    def prepare(self) -> None:
        """Bring data set, solver and extractor, and see that the figures asked for can be had. Raises
        `LapflowError`."""
        self.settings = self.config.evaluation
        self.metrics = set(self.settings.metrics)
        self.compared = bool(self.metrics & COMPARED)
        self.kept = self.settings.kept if self.metrics & WITH_FEATURES else 0
        self.method = create("solver", self.solver)
        self.guide = self.pipeline.require(self.method, self.guidance)
        self.images = build_images(self.pipeline.dataset)
        self.sizes = {split: min(self.settings.real_images, self.images.size(split)) for split in SPLITS}
        asked = self.settings.classifier is not None and "label" in self.pipeline.conditioner.needs
        self.judged = asked and self.images.num_classes > 1
        if self.judged:
            require_sklearn()
        self.against: Split = self._against()
        self._require_counts()
        held = self._held()
        self.real = {
            split: RealImages(self.images, split, self.settings.real_images, held) for split in SPLITS
        }
        self.extractor = build_features(self.config, self.images.grey_levels, self.pipeline.engine.device)
        self.reference: Path | None = None
        if self.compared:
            self.extractor.load()
            if self.settings.reference is not None:
                self.reference = Path(self.settings.reference).expanduser()
        for file in (self.npz, self.reference):
            if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
                raise ConfigError(
                    "a file cannot be written there",
                    got=str(file),
                    expected="a file's name in a folder that is there",
                )

    def _against(self) -> Split:
        held_out = self.sizes["test"] >= 2
        if self.settings.against == "auto":
            return "test" if held_out else "train"
        if self.settings.against == "test" and not held_out:
            raise DataError(
                "samples cannot be compared with held-out images",
                got=f"evaluation.against: test, and {self.sizes['test']} held-out images",
                expected="at least two",
                remedy="set evaluation.against=train, or hold images out",
            )
        return self.settings.against

    def _require_counts(self) -> None:
        """Enough samples and real images for each figure."""
        if self.num < 2:
            raise DataError(
                "a covariance needs at least two images",
                got=f"{self.num} samples",
                remedy="draw more samples",
            )
        smaller = min(self.settings.kept, self.num, self.sizes[self.against])
        if "kid" in self.metrics:
            require_subsets(smaller, self.settings.kid.subset_size)
        if "precision-recall" in self.metrics:
            require_neighbours(smaller, self.settings.neighbours)

    def _held(self) -> Callable[[Tensor], Tensor] | None:
        """What is kept of real images in memory: all for a classifier, levels for copies, else nothing."""
        levels = self.images.grey_levels
        if not self.judged and "copies" not in self.metrics:
            return None
        pixel = 4 if self.judged or levels > 255 else 1
        needed = pixel * sum(self.sizes.values()) * torch.Size(self.images.shape).numel()
        if needed > MAX_HELD:
            raise DataError(
                "copies and a classifier need the real images in memory, and these are too many",
                got=f"{needed / 2**30:.1f} GiB for {sum(self.sizes.values())} images of "
                f"{tuple(self.images.shape)}",
                expected=f"at most {MAX_HELD / 2**30:.1f} GiB",
                remedy="leave them out: evaluation.metrics=[frechet] evaluation.classifier=null; or lower "
                "evaluation.real_images",
            )
        return (lambda images: images) if self.judged else (lambda images: whole_levels(images, levels))

    # ------------------------------------------------------------------ real images

    def measure_real(self, workspace: Workspace) -> dict[Split, Measured]:
        """What is compared with, of each split; from the reference file if it is there. On rank 0."""
        if not self.compared:
            return {}
        both = self.against == "test" and "frechet" in self.metrics
        splits: list[Split] = ["train", "test"] if both else [self.against]
        data = {split: self.real[split].fingerprint for split in splits}
        common = {"extractor": self.extractor.identity(), "resize": self.extractor.resize}
        settings = {**common, "kept": self.kept, "data": data}
        path = self.reference
        if path is not None and self.engine.exchange(path.exists())[0]:
            return self.engine.first(lambda: read_reference(path, settings)) or {}
        found: dict[Split, Measured] = {}
        for split in splits:
            kept = self.kept if split == self.against else 0
            made_of = {**common, "data": data[split]}
            if (one := self.real[split].measure(workspace, made_of, self.extractor, kept)) is not None:
                found[split] = one
        if path is not None:
            self.engine.first(lambda: write_reference(path, settings, found))
        return found

    # ------------------------------------------------------------------ samples

    def measure_samples(self, workspace: Workspace) -> ResumableLoop:
        """Draw them block by block and keep what the figures need."""
        seen = self.engine.jointly(self._originals)

        def make(rows: range) -> dict[str, Tensor]:
            asked = self.pipeline.annotations(rows)
            images, work = self.pipeline.draw(
                rows,
                condition=self.pipeline.conditioner(asked),
                solver=self.method,
                guidance=self.guide,
                seed=self.seed,
            )
            _require_numbers(images, rows)
            found = {ROWS: torch.tensor(rows), "evaluations": torch.tensor([work.evaluations])}
            if self.compared:
                found[FEATURES] = extract(self.extractor, images)
            if seen is not None:
                found["nearest"] = nearest_distances(whole_levels(images, self.images.grey_levels), seen)
            if self.judged:
                found["agreed"] = (self.judge(images) == torch.tensor(asked["label"])).sum()[None]
            if self.images.judgements:
                found |= {f"judged/{n}": x for n, x in self.images.judge(images, asked).items()}
            if self.npz is not None:
                found["pixels"] = torch.from_numpy(to_uint8(images))
            return found

        loop = workspace.loop("samples", "sampling", self._sample_settings(), self.num, self.batch_size, make)
        if (path := self.npz) is not None:
            labels = self.pipeline.annotations(range(self.num)).get("label", [0] * self.num)
            shape = (*self.images.shape[1:], self.images.shape[0])
            pixels = (block["pixels"].numpy() for block in loop.each("pixels"))
            self.engine.first(lambda: write_archive(path, shape, pixels, torch.tensor(labels).numpy()))
        return loop

    def _originals(self) -> Tensor | None:
        """The levels of the training images, where copies are looked for; trains a classifier that judges."""
        if self.judged:
            self.judge = svm_classifier(*self.real["train"].everything())
        return self._levels("train") if "copies" in self.metrics else None

    def _levels(self, split: Split) -> Tensor:
        kept, _ = self.real[split].everything()
        return whole_levels(kept, self.images.grey_levels) if self.judged else kept

    def _sample_settings(self) -> dict[str, Any]:
        """All that the samples and what is kept of them depend on."""
        config, parts = resolved(self.config), ("flow", "model", "codec", "conditioner", "attention")
        looked_at = self.judged or "copies" in self.metrics
        return {
            **{name: config[name] for name in parts},
            **self._made_with(0),
            "device": self.pipeline.engine.device.type,
            "precision": self.pipeline.engine.config.get("precision"),
            "network": tensors_sha256(self.pipeline.model.state_dict()),
            "extractor": self.extractor.sha256 if self.compared else None,
            "copies": "copies" in self.metrics,
            "classifier": self.settings.classifier if self.judged else None,
            "training images": self.real["train"].fingerprint if looked_at else None,
            "npz": self.npz is not None,
        }

    # ------------------------------------------------------------------ figures

    def figures(self, real: Mapping[Split, Measured], samples: ResumableLoop) -> dict[str, Any]:
        """All figures, and how they came about; keys as in `MEANINGS`. On rank 0."""
        metrics: dict[str, Any] = {}
        if self.compared:
            made = measured(samples.each(FEATURES, ROWS), spaced(self.num, self.kept))
            metrics |= self._distances(real, made)
        if self.judged:
            metrics["agreement"] = int(samples.column("agreed").sum()) / self.num
            images, labels = self.real["test"].everything()
            if len(images):
                metrics["agreement_real"] = int((self.judge(images) == labels).sum()) / len(images)
        for name in self.images.judgements:
            metrics[f"judged.{name}"] = float(samples.column(f"judged/{name}").mean())
        metrics |= self._judged_real()
        if "copies" in self.metrics:
            metrics["copies"] = copy_figures(
                copy_report(samples.column("nearest"), self._levels("train"), self._levels("test"))
            )
        if self.pipeline.data_changes:
            metrics["data_changes"] = self.pipeline.data_changes[0]
        metrics["counts"] = self._counts(real)
        metrics["made_with"] = self._made_with(int(samples.column("evaluations").max()))
        if self.compared:
            metrics["measured_in"] = self._measured_in(real, made)
        return metrics

    def _judged_real(self) -> dict[str, float]:
        """The data set's own figures of its real held-out samples."""
        size = min(self.num, self.images.size("test"))
        if not self.images.judgements or not size:
            return {}
        read = [self.images.read("test", i) for i in range(size)]
        said = {name: [one.annotations[name] for one in read] for name in read[0].annotations}
        found = self.images.judge(torch.stack([one.value for one in read]), said)
        return {f"judged.{name}_real": float(x.mean()) for name, x in found.items()}

    def _distances(self, real: Mapping[Split, Measured], made: Measured) -> dict[str, Any]:
        against, kid = self._readable(real), self.settings.kid
        found: dict[str, Any] = {}
        if "frechet" in self.metrics:
            held_out = real["test"].statistics if against == "test" else None
            found |= frechet_figures(made.statistics, real["train"].statistics, held_out)
        if "kid" in self.metrics:
            sets = made.features, real[against].features
            distance = kernel_distance(*sets, subsets=kid.subsets, size=kid.subset_size, seed=kid.seed)
            found |= {"kid": distance.mean, "kid_std": distance.std}
        if "precision-recall" in self.metrics:
            found |= vars(precision_recall(made.features, real[against].features, self.settings.neighbours))
        return found

    def _measured_in(self, real: Mapping[Split, Measured], made: Measured) -> dict[str, Any]:
        """In what features, after what resizing, and against what."""
        against, kid = self._readable(real), self.settings.kid
        data = json.dumps(self.real[against].fingerprint, sort_keys=True)
        found: dict[str, Any] = {
            "features": words(self.settings.features),
            "extractor": self.extractor.sha256,
            "length": len(real[self.against].statistics.mean),
            "resize": self.extractor.resize,
            "against": against,
            "data": hashlib.sha256(data.encode()).hexdigest(),
        }
        if self.kept:
            found["kept"] = f"{len(made.features)} and {len(real[self.against].features)}"
        if "kid" in self.metrics:
            found["kid"] = f"{kid.subsets} subsets of {kid.subset_size}, seed {kid.seed}"
        if "precision-recall" in self.metrics:
            found["neighbours"] = self.settings.neighbours
        return found

    def _readable(self, real: Mapping[Split, Measured]) -> Split:
        """What samples are compared with after all: with `auto` held-out images only if two can be read."""
        few = self.settings.against == "auto" and self.against == "test" and real["test"].count < 2
        return "train" if few and "train" in real and not self.kept else self.against

    def _counts(self, real: Mapping[Split, Measured]) -> dict[str, int]:
        """How many images the figures are of, and how many of them could not be read."""
        used: dict[str, int] = dict.fromkeys(SPLITS, 0)
        left_out = 0
        for split, images in self.real.items():
            if split in real:
                used[split] = real[split].count
            elif images.keep is not None:
                used[split] = len(images.everything()[0])
            else:
                continue
            left_out += self.sizes[split] - used[split]
        replaced = listed(self.run / QUARANTINE)
        return {"samples": self.num, **used, "unreadable": left_out, "replaced": replaced}

    def _made_with(self, evaluations: int) -> dict[str, Any]:
        return made_with(self.pipeline, evaluations, self.solver, self.guidance, self.seed, self.batch_size)


def _require_numbers(images: Tensor, rows: range) -> None:
    """Raises `DataError` where a sample has a pixel that is not a number."""
    bad = torch.isnan(images).flatten(1).any(1)
    if bool(bad.any()):
        raise DataError(
            "a sample is not made of numbers",
            got=f"NaN in sample {rows[int(bad.int().argmax())]}",
            remedy="look at the samples: a diverged model makes such images",
        )
