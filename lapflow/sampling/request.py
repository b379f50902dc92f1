"""What is asked of a trained composition, resolved and checked before any work: a class, a solver, a
guidance."""

from __future__ import annotations

from collections.abc import Sequence

from lapflow.config.building import build_guidance, require_solver
from lapflow.config.schema import Config
from lapflow.core.condition import Annotations
from lapflow.core.errors import ConfigError, suggest
from lapflow.core.guidance import Guidance
from lapflow.core.solver import Solver
from lapflow.flows.flow import Flow
from lapflow.sampling.guidance import ClassifierFreeGuidance


def class_label(class_names: Sequence[str], name: str | int) -> int:
    """The label of a class given by name or number. Raises `ConfigError` with the nearest names."""
    names = list(class_names)
    if str(name) in names:
        return names.index(str(name))
    numbered = not any(n.isdecimal() for n in names)  # where a name is a number, numbers are names
    if numbered and str(name).isdecimal() and int(name) < len(names):
        return int(name)
    if not names:
        raise ConfigError("this run has no classes", got=f"class {name}", expected="no class")
    raise ConfigError(
        "class out of range" if str(name).lstrip("-").isdecimal() else "unknown class",
        got=name,
        expected=f"0 to {len(names) - 1}, or {suggest(str(name), names[:50])}",
    )


def require_annotations(given: Annotations, needs: Sequence[str], num: int) -> None:
    """Raises `ConfigError` unless all that a run is told of a sample is given of `num` samples, and nothing
    else; or nothing at all."""
    if given and set(given) != set(needs):
        raise ConfigError(
            "this is not what the run is told of a sample",
            got=", ".join(given),
            expected=", ".join(needs) or "nothing: the run has no classes and no other condition",
        )
    for name, values in given.items():
        if len(values) != num:
            raise ConfigError(
                f"{name}s must be one per sample", got=f"{len(values)} {name}s", expected=f"{num}"
            )


def require_method(flow: Flow, heads: Sequence[str], solver: Solver) -> None:
    """Raises `ConfigError` unless the solver fits the flow and its path, and asks for no other `heads` than
    the network has beside `main`."""
    require_solver(flow, solver)
    if missing := [name for name in solver.heads if name not in heads]:
        raise ConfigError(
            "this solver uses what the network does not predict",
            got=f"{type(solver).__name__} needs {', '.join(missing)}",
        )


def resolve_guidance(
    config: Config,
    flow: Flow,
    conditional: bool,
    guidance: float | Sequence[float] | Guidance | None,
) -> Guidance:
    """The guidance that sampling uses: the config's (None), classifier-free with this scale, or the one
    given. Raises `ConfigError` unless it fits the flow and what was trained: a network that is `conditional`,
    and its null."""
    if guidance is None:
        guide = build_guidance(config)
    else:
        guide = guidance if isinstance(guidance, Guidance) else ClassifierFreeGuidance(scale=guidance)
    guide.require(flow.levels)
    if not guide.off and not conditional:
        raise ConfigError(
            "guidance needs a condition to leave out", got="an unconditional run", expected="guidance scale 1"
        )
    if not guide.off:
        require_null_class(config, "guidance", "guidance scale 1")
    return guide


def require_null_class(config: Config, what: str, instead: str) -> None:
    """Raises `ConfigError` where `what` asks for the null class of a run that never trained it."""
    if config.training.condition_dropout == 0:
        raise ConfigError(
            f"{what} needs the null class, which this run never trained",
            got="training.condition_dropout: 0",
            expected=f"{instead}, or a run with condition_dropout around 0.1",
        )
