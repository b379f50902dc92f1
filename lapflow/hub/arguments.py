"""The arguments of a pipeline's call, resolved and checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lapflow.config.building import build_solver
from lapflow.config.schema import Config
from lapflow.core.errors import ConfigError, suggest
from lapflow.core.guidance import Guidance
from lapflow.core.solver import Solver
from lapflow.flows.flow import Flow
from lapflow.plugins.registry import create
from lapflow.sampling.request import class_label, require_method, require_null_class, resolve_guidance
from lapflow.sampling.sharing import share_steps
from lapflow.util.random import Generators

Labels = int | str | Sequence[int | str] | Tensor | None


def choose_labels(
    config: Config, class_names: Sequence[str], labels: Labels, each: int
) -> tuple[Tensor | None, int]:
    """([b] int64 labels or None, b), each label `each` times in turn. A number is a class's number, a string
    its name."""
    if each < 1:
        raise ConfigError("num_images_per_label must be at least 1", got=each)
    if labels is None:
        if class_names:
            require_null_class(config, "a call without class_labels", "class_labels")
        return None, each
    if not class_names:
        raise ConfigError(
            "this model has no classes",
            got="class_labels",
            expected="num_images_per_label, the number of images",
        )
    given = (
        labels.reshape(-1).tolist()
        if isinstance(labels, Tensor)
        else [labels]
        if isinstance(labels, (int, str))
        else list(labels)
    )
    if not given:
        raise ConfigError("class_labels is empty", expected="at least one class")
    found = torch.tensor([_label(class_names, label) for label in given], dtype=torch.int64)
    return found.repeat_interleave(each), len(found) * each


def _label(class_names: Sequence[str], label: Any) -> int:
    if isinstance(label, str):
        return class_label(class_names, label)
    if isinstance(label, bool) or not isinstance(label, int):
        raise ConfigError(
            "a class is a number or a name",
            got=repr(label),
            expected=f"0 to {len(class_names) - 1}, or a name",
        )
    if not 0 <= label < len(class_names):
        raise ConfigError("class out of range", got=label, expected=f"0 to {len(class_names) - 1}")
    return label


def choose_solver(
    config: Config,
    flow: Flow,
    heads: Sequence[str],
    solver: str | Mapping[str, Any] | Solver | None,
    steps: int | None,
) -> Solver:
    """The solver (None: the config's), with `steps` over all segments if they are given. Raises `ConfigError`
    unless it fits the flow and its path, and asks for no other `heads` than the network has beside `main`."""
    if isinstance(solver, Solver):
        method, spec = solver, None
    else:
        spec = (
            {"name": solver}
            if isinstance(solver, str)
            else dict(solver)
            if solver is not None
            else dict(config.sampling.solver)
        )
        method = build_solver(config) if solver is None else create("solver", spec)
    if steps is not None:
        if isinstance(steps, bool) or not isinstance(steps, int):
            raise ConfigError("num_inference_steps is a whole number", got=repr(steps))
        if spec is None or "steps" not in method.config:
            raise ConfigError(
                "num_inference_steps is for a solver named with its arguments"
                if spec is None
                else "this solver chooses its own steps",
                got=f"num_inference_steps={steps} with {type(method).__name__}",
                expected="a solver's name, such as heun or euler, or no num_inference_steps",
            )
        shared = share_steps(steps, flow.segments)
        method = create("solver", {**spec, "steps": shared[0] if len(shared) == 1 else shared})
    require_method(flow, heads, method)
    return method


def choose_guidance(
    config: Config, flow: Flow, conditional: bool, scale: float | Sequence[float] | None
) -> Guidance:
    """The guidance of a scale as diffusers means it: at most 1 is off. None: the config's."""
    if scale is None or isinstance(scale, Sequence):
        return resolve_guidance(config, flow, conditional, scale)
    return resolve_guidance(config, flow, conditional, max(1.0, float(scale)))


def choose_generator(generator: Generators, batch: int) -> Generators:
    """One generator, or one for each image. Raises `ConfigError` for another number of them."""
    if not isinstance(generator, torch.Generator) and len(generator) != batch:
        raise ConfigError(
            "one generator per image is wanted",
            got=f"{len(generator)} generators",
            expected=f"{batch}, or a single one",
        )
    return generator


def check_tensor_inputs(wanted: Sequence[str], known: Sequence[str]) -> None:
    """Raises `ConfigError` for a tensor that a callback cannot be given."""
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(
            "a callback cannot be given this",
            got=", ".join(map(str, unknown)),
            expected=suggest(str(unknown[0]), known),
        )
