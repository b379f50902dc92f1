"""What a run lets one choose: classes, the solvers that fit, whether guidance means anything; and bounds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lapflow.config.building import build_guidance, build_solver
from lapflow.config.loading import load_config, recipes, resolved
from lapflow.config.schema import Config
from lapflow.core.errors import ConfigError, LapflowError
from lapflow.core.solver import Solver
from lapflow.plugins.registry import config_model, create, names
from lapflow.sampling.guidance import ClassifierFreeGuidance
from lapflow.sampling.loaded_run import is_exported
from lapflow.sampling.pipeline import Pipeline, solver_spec
from lapflow.sampling.writing import STRIP_TIMES
from lapflow.training.checkpoint import checkpoint_name

MAX_GUIDANCE = 20.0
MAX_STEPS = 500
"""Of a segment. What the config's own solver takes is not bounded by it."""
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Capabilities:
    """`pipeline` of the folder `run`; the names of the `solvers` that fit it, its own first; `unguided`, why
    guidance cannot be chosen, or None; `title`, the recipe's name or the folder's.

    `options` of the command line choose the weights and where they run: what repeats a picture repeats them.
    """

    run: Path
    pipeline: Pipeline
    options: Mapping[str, str]
    solvers: tuple[str, ...]
    unguided: str | None
    title: str

    @classmethod
    def of(cls, run: Path, pipeline: Pipeline, options: Mapping[str, str]) -> Capabilities:
        own = str(pipeline.config.sampling.solver["name"])
        if set(pipeline.conditioner.needs) - {"label"}:
            raise ConfigError(
                "the page asks for classes only",
                got=f"a run that is told {', '.join(pipeline.conditioner.needs)}",
                remedy="lapflow sample RUN --caption TEXT",
            )
        others = [name for name in names("solver") if name != own and _fits(pipeline, name)]
        # Named even where it is the newest: a run that trains on has a newer one when the command is used.
        pinned = {} if is_exported(run) else {"--checkpoint": checkpoint_name(pipeline.step)}
        title = recipe_of(pipeline.config) or run.resolve().name
        return cls(run, pipeline, {**pinned, **options}, (own, *others), _unguided(pipeline), title)

    def solver(self, name: str, steps: int | None) -> Solver:
        """The solver as `lapflow sample --solver NAME --steps STEPS` makes it."""
        return create("solver", solver_spec(self.pipeline.config, name, steps))

    def document(self) -> dict[str, Any]:
        """What the page is built from, as plain data."""
        pipeline = self.pipeline
        c, *sizes = pipeline.shape
        scales = sorted(pipeline.flow.bands(pipeline.shape), reverse=True)
        return {
            "title": self.title,
            "facts": [
                f"step {pipeline.step:,}",
                f"{pipeline.weights} weights",
                f"{'x'.join(map(str, sizes))}, {c} channel{'s' if c > 1 else ''}"
                + ("" if pipeline.config.codec["name"] == "pixels" else ", latents"),
                f"{len(scales)} scale{'s' if len(scales) > 1 else ''}",
                str(pipeline.engine.device),
            ],
            "size": sizes,
            "rows": [f"scale {k}" for k in scales],
            "times": list(STRIP_TIMES),
            "segments": len(pipeline.flow.segments),
            "classes": list(pipeline.class_names),
            "guidance": {"min": 0, "max": MAX_GUIDANCE, "refused": self.unguided},
            "steps": {"min": 1, "max": MAX_STEPS},
            "seed": {"min": 0, "max": MAX_SEED},
            "solvers": [{"name": name, **self._steps(name)} for name in self.solvers],
            "panels": self._panels(),
        }

    def _steps(self, name: str) -> dict[str, Any]:
        """Whether a solver takes steps, and how many it takes by itself: None for a list of them."""
        fields = config_model("solver", name).model_fields
        if "steps" not in fields:
            return {"takes_steps": False, "steps": None}
        steps = solver_spec(self.pipeline.config, name, None).get("steps", fields["steps"].default)
        known = isinstance(steps, int) and steps <= MAX_STEPS
        return {"takes_steps": True, "steps": steps if known else None}

    def _panels(self) -> dict[str, dict[str, Any]]:
        """The settings with which the two panels begin: the run's own, and one thing changed visibly."""
        name = self.solvers[0]
        steps = self._steps(name)["steps"]
        own = {
            "class": next(iter(self.pipeline.class_names), None),
            "guidance": _scale(self.pipeline),
            "solver": name,
            "steps": steps,
        }
        a = {**own, "seed": 0}
        if self.unguided is None:
            return {"a": a, "b": {**a, "guidance": 1.0 if (own["guidance"] or 1.0) > 1.5 else 2.5}}
        if steps is not None and steps > 1:
            return {"a": a, "b": {**a, "steps": max(1, steps // 5)}}
        return {"a": a, "b": {**a, "seed": 1}}


def recipe_of(config: Config) -> str | None:
    """The recipe that has this flow, network, codec and data set; None for a user's own composition."""
    wanted = _composition(config)
    for name in recipes():
        with suppress(ConfigError):  # a recipe that needs an argument, such as where the images lie
            if _composition(load_config(name)) == wanted:
                return name
    return None


def _composition(config: Config) -> dict[str, Any]:
    whole = resolved(config)
    return {**{key: whole[key] for key in ("flow", "model", "codec")}, "data": whole["data"]["name"]}


def _fits(pipeline: Pipeline, name: str) -> bool:
    """Whether a solver with its defaults can sample the run."""
    # One that does not fit, a broken plugin, two plugins of one name, arguments without a default.
    with suppress(LapflowError):
        pipeline.require(create("solver", solver_spec(pipeline.config, name, None)), 1.0)
        return True
    return False


def _unguided(pipeline: Pipeline) -> str | None:
    try:
        pipeline.require(build_solver(pipeline.config), 2.0)
    except ConfigError as error:
        return error.what
    return None


def _scale(pipeline: Pipeline) -> float | None:
    """The scale that alone says the config's guidance; None where it has other settings than that."""
    own = build_guidance(pipeline.config)
    if not isinstance(own, ClassifierFreeGuidance) or isinstance(own.scale, tuple):
        return None
    plain = ClassifierFreeGuidance(scale=own.scale)
    alone = (own.first, own.last, own.channels) == (plain.first, plain.last, plain.channels)
    return float(own.scale) if alone else None
