"""Sample a run and measure it: `lapflow evaluate`, by one process or several, going on after a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lapflow.config.building import build_features
from lapflow.config.loading import load_config, resolved
from lapflow.config.schema import Config, EvaluationConfig
from lapflow.core.engine import Engine
from lapflow.core.errors import ConfigError
from lapflow.data.quarantine import QUARANTINE
from lapflow.evaluation.report import write_report
from lapflow.evaluation.resumable import Counter, uncounted
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
    """The processes that share an evaluation: those of torchrun, or this one alone. `start` joins them."""
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
    (`write_archive`).

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
    shared = engine or processes(str(pipeline.engine.device))
    folder, solver = out or run, dict(solver or config.sampling.solver)
    batch_size = batch_size or config.sampling.batch_size
    task = Task(run, pipeline, config, shared, num, solver, guidance, seed, batch_size, npz, counter)

    def report(metrics: dict[str, Any]) -> None:
        pictures = {caption: run / path for caption, path in PICTURES.items() if (run / path).is_file()}
        write_report(folder, metrics, resolved(config), pictures, title=f"Evaluation of {run.name}")

    if engine is None:
        shared.start()
    try:
        return task.measure(folder, report)
    except RuntimeError as error:
        if (cause := shared.explain(error)) is not None:
            raise cause from error
        raise
    finally:
        if engine is None:
            shared.stop()


def evaluation_config(config: Config, overrides: Sequence[str]) -> Config:
    """The run's `config` with `key=value` overrides of its section `evaluation`.

    A run's config may come from anybody, with its checkpoint. An extractor in it that names code is not taken
    over: the overrides must name one themselves, whole. Raises `ConfigError`.
    """
    for text in overrides:
        if not text.startswith("evaluation."):
            raise ConfigError(
                "an evaluation changes nothing of the run but how it is measured",
                got=text,
                expected="evaluation.KEY=VALUE, such as evaluation.metrics=[frechet,kid], or data.root=PATH",
            )
    values = resolved(config)
    if not any(text.startswith("evaluation.features") for text in overrides):
        require_own_words(config)
    elif build_features(config, 255).runs_code:
        del values["evaluation"]["features"]
    return load_config(values, overrides)


def require_own_words(config: Config) -> None:
    """Raises `ConfigError` where the extractor of a config that came with a checkpoint names code."""
    if build_features(config, 255).runs_code:
        raise ConfigError(
            "the run names code as its feature extractor, and a run may come from anybody",
            got=str(config.evaluation.features),
            expected="an extractor that you name yourself",
            remedy="say it in the command, if you trust it: lapflow evaluate RUN "
            "'evaluation.features={name: ..., ...}'",
        )


def summary(metrics: Mapping[str, Any]) -> str:
    """The figures of an evaluation in a few lines."""
    made, counts, measured = (metrics.get(name, {}) for name in ("made_with", "counts", "measured_in"))
    rows = [
        f"{counts['samples']} samples, {made['evaluations']} evaluations each, {made['weights']} weights",
        f"solver {made['solver']}; guidance {made['guidance']}",
    ]
    if "frechet_ratio" in metrics:
        rows.append(
            f"Frechet distance to held-out images {metrics['frechet']:.2f}; of the real training images "
            f"{metrics['frechet_real']:.2f}; ratio {metrics['frechet_ratio']:.3f}"
        )
    elif "frechet_to_training" in metrics:
        rows.append(f"Frechet distance to the training images {metrics['frechet_to_training']:.2f}")
    if "kid" in metrics:
        rows.append(f"kernel distance {metrics['kid']:.4g} ± {metrics['kid_std']:.2g} ({measured['kid']})")
    if "precision" in metrics:
        precision, recall, k = metrics["precision"], metrics["recall"], measured["neighbours"]
        rows.append(f"precision {precision:.3f}, recall {recall:.3f} ({k} nearest neighbours)")
    if measured:
        rows.append(f"in the features {measured['features']}; resizing: {measured['resize']}")
        if counts["samples"] <= (length := measured["length"]):
            rows.append(f"no more samples than features ({length}): a Frechet distance of so few says little")
    if "agreement" in metrics:
        real = metrics.get("agreement_real")
        held_out = "" if real is None else f" (held-out real images {100 * real:.1f} %)"
        rows.append(f"a classifier sees the class asked for in {100 * metrics['agreement']:.1f} %{held_out}")
    for name in [key for key in metrics if key.startswith("judged.") and not key.endswith("_real")]:
        real = f" (held-out real {metrics[f'{name}_real']:.3f})" if f"{name}_real" in metrics else ""
        rows.append(f"{name.removeprefix('judged.').replace('_', ' ')} {metrics[name]:.3f}{real}")
    if "data_changes" in metrics:
        rows.append(f"not the data that the run was trained on: {metrics['data_changes']}")
    if left_out := counts["unreadable"]:
        rows.append(f"{left_out} real images cannot be read and are left out of these figures")
    if replaced := counts["replaced"]:
        rows.append(
            f"{replaced} training images could not be read and were replaced in training: {QUARANTINE}"
        )
    if "copies" in metrics:
        rows.append(f"copies of training images {metrics['copies']['copies']}")
    return "\n".join(rows)
