"""How figures came about, as the metrics state it: figures are compared by it, and a reader can make them
again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lapflow.plugins.registry import create
from lapflow.sampling.pipeline import Pipeline


def made_with(
    pipeline: Pipeline,
    evaluations: int,
    *,
    solver: Mapping[str, Any] | None = None,
    guidance: float | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """How samples were made; None: the config's."""
    sampling = pipeline.config.sampling
    return {
        "solver": words(solver or sampling.solver),
        "evaluations": evaluations,
        "tolerance": _tolerance(solver or sampling.solver),
        "guidance": words(sampling.guidance) if guidance is None else f"cfg scale={guidance}",
        "batch_size": batch_size or sampling.batch_size,
        "weights": pipeline.weights,
        "ema_decay": pipeline.config.training.ema_decay if pipeline.weights == "ema" else None,
        "step": pipeline.step,
        "seed": seed,
    }


def words(spec: Mapping[str, Any]) -> str:
    """A component's spec in one line: name, then what is set."""
    return " ".join(
        str(value) if key == "name" else f"{key}={value}" for key, value in spec.items() if value is not None
    )


def _tolerance(solver: Mapping[str, Any]) -> str | None:
    """The tolerances of an adaptive solver, its defaults filled in; None for one of fixed steps."""
    made = create("solver", solver).config
    found = [f"{name}={made[name]:g}" for name in ("rtol", "atol") if name in made]
    return " ".join(found) or None
