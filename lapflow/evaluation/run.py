"""Sample a run and measure it: what `lapflow evaluate` does, on one process or several, going on after a
kill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lapflow.config.loading import resolved
from lapflow.config.schema import EvaluationConfig
from lapflow.core.engine import Engine
from lapflow.data.quarantine import QUARANTINE
from lapflow.evaluation.report import write_report
from lapflow.evaluation.resumable import Counter, uncounted
from lapflow.evaluation.settings import require_own_words
from lapflow.evaluation.task import Task
from lapflow.plugins.registry import create
from lapflow.sampling.pipeline import Pipeline

WAITS = 24 * 3600.0
"""Seconds for which processes wait for one another: their shares may take differently long."""

PICTURES = {
    "Samples": "samples/grid.png",
    "Each scale maturing over time": "samples/scales.png",
    "Training loss": "loss.png",
    "The scales of a training image": "bands.png",
}


def processes(device: str) -> Engine:
    """The processes that share an evaluation: those that torchrun started, or this one alone. `start` joins
    them."""
    engine: Engine = create("engine", {"name": "torch", "device": device, "timeout": WAITS})
    return engine


def evaluate_run(
    run: Path,
    pipeline: Pipeline,
    *,
    num: int,
    guidance: float | None = None,
    solver: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    evaluation: EvaluationConfig | None = None,
    out: Path | None = None,
    npz: Path | None = None,
    engine: Engine | None = None,
    counter: Counter = uncounted,
) -> dict[str, Any]:
    """Draw `num` images, classes in turn, measure them against the run's data, write `metrics.json` and
    `report.md` in `out` (default: `run`); gives the metrics. They say how they were made and measured.

    `solver` ({name: ..., **arguments}), `guidance` and `batch_size` replace the config's. `evaluation` says
    what is measured; it is the caller's own word. Without it the run's config says it, which may have come
    with a checkpoint: an extractor there that names code is refused. `npz` is a file for the samples
    (`lapflow.evaluation.archive`).

    `engine` are the processes that share the work, made by `processes` and started; without it those of this
    environment. Each finished batch is saved in `out`/evaluation, and the same call goes on from there.
    Samples are drawn in the same batches by any number of processes, and added up in the same order.
    Raises `LapflowError` for what cannot be measured, before anything is drawn where that can be known.
    """
    config = pipeline.config
    if evaluation is None:
        require_own_words(config)
    else:
        config = config.model_copy(update={"evaluation": evaluation})
    own = processes(str(pipeline.engine.device)) if engine is None else None
    shared = own or engine
    assert shared is not None
    folder = out or run
    task = Task(
        run,
        pipeline,
        config,
        shared,
        num,
        dict(solver or config.sampling.solver),
        guidance,
        seed,
        batch_size or config.sampling.batch_size,
        npz,
        counter,
    )

    def report(metrics: dict[str, Any]) -> None:
        pictures = {caption: run / path for caption, path in PICTURES.items() if (run / path).is_file()}
        write_report(folder, metrics, resolved(config), pictures, title=f"Evaluation of {run.name}")

    if own is not None:
        own.start()
    try:
        return task.measure(folder, report)
    except RuntimeError as error:
        if (cause := shared.explain(error)) is not None:
            raise cause from error
        raise
    finally:
        if own is not None:
            own.stop()


def summary(metrics: Mapping[str, Any]) -> str:
    """The figures of an evaluation in a few lines."""
    made = metrics["made_with"]
    rows = [
        f"{metrics['counts']['samples']} samples, {made['evaluations']} evaluations each, {made['weights']} "
        f"weights",
        f"solver {made['solver']}; guidance {made['guidance']}",
    ]
    if "frechet_ratio" in metrics:
        distance, real, ratio = (metrics[key] for key in ("frechet", "frechet_real", "frechet_ratio"))
        rows.append(
            f"Frechet distance to held-out images {distance:.2f}; of the real training images {real:.2f}; "
            f"ratio {ratio:.3f}"
        )
    elif "frechet_to_training" in metrics:
        rows.append(f"Frechet distance to the training images {metrics['frechet_to_training']:.2f}")
    if "kid" in metrics:
        rows.append(
            f"kernel distance {metrics['kid']:.4g} ± {metrics['kid_std']:.2g} "
            f"({metrics['measured_in']['kid']})"
        )
    if "precision" in metrics:
        k = metrics["measured_in"]["neighbours"]
        rows.append(
            f"precision {metrics['precision']:.3f}, recall {metrics['recall']:.3f} ({k} nearest neighbours)"
        )
    if measured := metrics.get("measured_in"):
        rows.append(f"in the features {measured['features']}; resizing: {measured['resize']}")
        if metrics["counts"]["samples"] <= measured["length"]:
            rows.append(
                f"no more samples than features ({measured['length']}): a Frechet distance of so few says "
                f"little"
            )
    if "agreement" in metrics:
        held_out = (
            f" (held-out real images {100 * metrics['agreement_real']:.1f} %)"
            if "agreement_real" in metrics
            else ""
        )
        rows.append(f"a classifier sees the class asked for in {100 * metrics['agreement']:.1f} %{held_out}")
    for name in [key for key in metrics if key.startswith("judged.") and not key.endswith("_real")]:
        real = f" (held-out real {metrics[f'{name}_real']:.3f})" if f"{name}_real" in metrics else ""
        rows.append(f"{name.removeprefix('judged.').replace('_', ' ')} {metrics[name]:.3f}{real}")
    if left_out := metrics["counts"]["unreadable"]:
        rows.append(f"{left_out} real images cannot be read and are left out of these figures")
    if replaced := metrics["counts"]["replaced"]:
        rows.append(
            f"{replaced} training images could not be read and were replaced in training: {QUARANTINE}"
        )
    if "copies" in metrics:
        rows.append(f"copies of training images {metrics['copies']['copies']}")
    return "\n".join(rows)
