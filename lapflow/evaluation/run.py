"""Sample a run and measure it: what `lapflow evaluate` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lapflow.config.loading import resolved
from lapflow.core.guidance import Guidance
from lapflow.core.solver import Solver
from lapflow.evaluation.agreement import svm_agreement
from lapflow.evaluation.evaluate import evaluate_images
from lapflow.evaluation.report import write_report
from lapflow.plugins.registry import create
from lapflow.sampling.pipeline import Pipeline

CLASSIFIERS = {"svm": svm_agreement}

PICTURES = {"Samples": "samples/grid.png", "Each scale maturing over time": "samples/scales.png", "Training loss": "loss.png"}


def evaluate_run(
    run: Path,
    pipeline: Pipeline,
    *,
    num: int,
    guidance: float | Guidance | None = None,
    solver: Solver | None = None,
    seed: int = 0,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """Draw `num` images, classes in turn, measure them against the run's data, write `metrics.json` and `report.md` in `run`.

    The metrics say how they were made: solver, evaluations, guidance, weights, step, seed.
    """
    settings = pipeline.config.evaluation
    samples = pipeline.sample(num, solver=solver, guidance=guidance, seed=seed, progress=progress)
    features = create("features", settings.features, grey_levels=pipeline.dataset.grey_levels)
    classifier = None if settings.classifier is None else CLASSIFIERS[settings.classifier]
    metrics = evaluate_images(samples.images, samples.labels, pipeline.dataset, features, classifier)
    used = pipeline.config.sampling.solver if solver is None else {"name": type(solver).__name__.lower(), **solver.config}
    metrics["made_with"] = {
        "solver": " ".join(str(v) if k == "name" else f"{k}={v}" for k, v in used.items()),
        "evaluations": samples.evaluations,
        "guidance": guidance if guidance is not None else pipeline.config.sampling.guidance["scale"],
        "weights": pipeline.weights,
        "step": pipeline.step,
        "seed": seed,
    }
    pictures = {caption: run / path for caption, path in PICTURES.items() if (run / path).is_file()}
    write_report(run, metrics, resolved(pipeline.config), pictures, title=f"Evaluation of {run.name}")
    return metrics


def summary(metrics: Mapping[str, Any]) -> str:
    """The figures of an evaluation in a few lines."""
    made, rows = metrics["made_with"], []
    rows.append(f"{metrics['counts']['samples']} samples, {made['solver']}, {made['evaluations']} evaluations, guidance {made['guidance']}, {made['weights']} weights")
    if "frechet_ratio" in metrics:
        rows.append(
            f"Frechet distance to held-out images: {metrics['frechet']:.2f} (real training images: {metrics['frechet_real']:.2f}, ratio {metrics['frechet_ratio']:.3f})"
        )
    if "agreement" in metrics:
        rows.append(f"classifier agrees with the class asked for: {100 * metrics['agreement']:.1f} % (held-out real images: {100 * metrics['agreement_real']:.1f} %)")
    rows.append(f"copies of training images: {metrics['copies']['copies']}")
    return "\n".join(rows)
