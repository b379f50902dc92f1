"""Sample a run and measure it: what `lapflow evaluate` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lapflow.config.building import build_features, build_images
from lapflow.config.loading import resolved
from lapflow.data.quarantine import QUARANTINE, listed
from lapflow.evaluation.agreement import require_sklearn, svm_agreement
from lapflow.evaluation.evaluate import evaluate_images
from lapflow.evaluation.report import write_report
from lapflow.plugins.registry import create
from lapflow.sampling.pipeline import Pipeline

CLASSIFIERS = {"svm": svm_agreement}

PICTURES = {
    "Samples": "samples/grid.png",
    "Each scale maturing over time": "samples/scales.png",
    "Training loss": "loss.png",
    "The scales of a training image": "bands.png",
}


def evaluate_run(
    run: Path,
    pipeline: Pipeline,
    *,
    num: int,
    guidance: float | None = None,
    solver: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """Draw `num` images, classes in turn, measure them against the run's data, write `metrics.json` and `report.md` in `run`.

    `solver` ({name: ..., **arguments}) and `guidance` replace the config's. The metrics say how they were made: solver,
    evaluations, guidance, weights, step, seed.
    """
    config = pipeline.config
    used = dict(solver or config.sampling.solver)
    # ---- what can be missing is missed before any work
    real = build_images(pipeline.dataset)
    real.size("train")
    classifier = None if config.evaluation.classifier is None else CLASSIFIERS[config.evaluation.classifier]
    if classifier is not None:
        require_sklearn()
    features = build_features(config, real.grey_levels)

    samples = pipeline.sample(num, solver=create("solver", used), guidance=guidance, seed=seed, progress=progress)
    metrics = evaluate_images(samples.images, samples.labels, real, features, classifier)
    metrics["counts"]["replaced"] = listed(run / QUARANTINE)
    metrics["made_with"] = made_with(pipeline, samples.evaluations, solver=used, guidance=guidance, seed=seed)
    pictures = {caption: run / path for caption, path in PICTURES.items() if (run / path).is_file()}
    write_report(run, metrics, resolved(config), pictures, title=f"Evaluation of {run.name}")
    return metrics


def made_with(
    pipeline: Pipeline, evaluations: int, *, solver: Mapping[str, Any] | None = None, guidance: float | None = None, seed: int = 0
) -> dict[str, Any]:
    """How samples were made, as the metrics state it; None: the config's."""
    sampling = pipeline.config.sampling
    return {
        "solver": words(solver or sampling.solver),
        "evaluations": evaluations,
        "guidance": words(sampling.guidance) if guidance is None else f"cfg scale={guidance}",
        "weights": pipeline.weights,
        "step": pipeline.step,
        "seed": seed,
    }


def summary(metrics: Mapping[str, Any]) -> str:
    """The figures of an evaluation in a few lines."""
    made = metrics["made_with"]
    rows = [
        f"{metrics['counts']['samples']} samples, {made['evaluations']} evaluations each, {made['weights']} weights",
        f"solver {made['solver']}; guidance {made['guidance']}",
    ]
    if "frechet_ratio" in metrics:
        distance, real, ratio = (metrics[key] for key in ("frechet", "frechet_real", "frechet_ratio"))
        rows.append(f"Frechet distance to held-out images {distance:.2f}; of the real training images {real:.2f}; ratio {ratio:.3f}")
    else:
        rows.append(f"Frechet distance to the training images {metrics['frechet_to_training']:.2f}")
    if "agreement" in metrics:
        held_out = f" (held-out real images {100 * metrics['agreement_real']:.1f} %)" if "agreement_real" in metrics else ""
        rows.append(f"a classifier sees the class asked for in {100 * metrics['agreement']:.1f} %{held_out}")
    if left_out := metrics["counts"]["unreadable"]:
        rows.append(f"{left_out} real images cannot be read and are left out of these figures")
    if replaced := metrics["counts"]["replaced"]:
        rows.append(f"{replaced} training images could not be read and were replaced in training: {QUARANTINE}")
    rows.append(f"copies of training images {metrics['copies']['copies']}")
    return "\n".join(rows)


def words(spec: Mapping[str, Any]) -> str:
    """A component's spec in one line: name, then what is set."""
    return " ".join(str(value) if key == "name" else f"{key}={value}" for key, value in spec.items() if value is not None)
