"""The arguments of a pipeline's call, resolved and checked before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lapflow.config.building import build_solver
from lapflow.config.schema import Config
from lapflow.core.errors import ConfigError, suggest
from lapflow.core.intervals import Segment
from lapflow.core.solver import Solver
from lapflow.core.state import Shape, State
from lapflow.flows.flow import Flow
from lapflow.plugins.registry import create
from lapflow.sampling.pipeline import class_label, require_method, require_null_class
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
    if isinstance(labels, Tensor):
        labels = labels.reshape(-1).tolist()
    given = [labels] if isinstance(labels, (int, str)) else list(labels)
    if not given:
        raise ConfigError("class_labels is empty", expected="at least one class")
    found = torch.tensor([_label(class_names, label) for label in given], dtype=torch.int64)
    return found.repeat_interleave(each), len(found) * each


def _label(class_names: Sequence[str], label: Any) -> int:
    if isinstance(label, str):
        return class_label(class_names, label)
    numbers = f"0 to {len(class_names) - 1}"
    if isinstance(label, bool) or not isinstance(label, int):
        raise ConfigError("a class is a number or a name", got=repr(label), expected=f"{numbers}, or a name")
    if not 0 <= label < len(class_names):
        raise ConfigError("class out of range", got=label, expected=numbers)
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
    elif solver is None:
        method, spec = build_solver(config), dict(config.sampling.solver)
    else:
        spec = {"name": solver} if isinstance(solver, str) else dict(solver)
        method = create("solver", spec)
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


def share_steps(total: int, segments: Sequence[Segment]) -> list[int]:
    """`total` steps as numbers of steps per segment, in time order: by the segments' lengths in t, at least
    one each. Whole numbers nearest to the exact shares, the earlier segment first where two are as near.
    Raises `ConfigError` for fewer steps than segments."""
    if total < len(segments):
        raise ConfigError(
            "every segment needs a step", got=f"{total} steps", expected=f"at least {len(segments)}"
        )
    lengths = [segment.stop - segment.start for segment in segments]
    exact = [total * length / sum(lengths) for length in lengths]
    steps = [max(1, math.floor(share)) for share in exact]
    while sum(steps) != total:
        missing = sum(steps) < total
        # Who lacks most gets one; who has most too many, and more than one, gives one.
        gaps = [share - n for share, n in zip(exact, steps)]
        ranked = [gap if missing else -gap if n > 1 else -math.inf for gap, n in zip(gaps, steps)]
        steps[max(range(len(steps)), key=ranked.__getitem__)] += 1 if missing else -1
    return steps


def choose_generator(generator: Generators, batch: int) -> Generators:
    """One generator, or one for each image. Raises `ConfigError` for another number of them."""
    if not isinstance(generator, torch.Generator) and len(generator) != batch:
        raise ConfigError(
            "one generator per image is wanted",
            got=f"{len(generator)} generators",
            expected=f"{batch}, or a single one",
        )
    return generator


def join_noise(white: Sequence[Mapping[int, Tensor]]) -> Tensor:
    """The noise of a batch as one tensor, which is what diffusers calls `latents`: the draws of
    `Flow.draw_white`, of unit variance.

    Usually (noise `decomposed`, one pyramid) a sample's draws are one white sample, and the tensor is [b, c,
    *sizes], the shape of the flow's samples. Where there are several, because the scales have noise of their
    own, the noise is coloured, or the bridges need a pyramid for each segment, it is [b, n]: each sample's
    draws one after another, flattened, in the order in which a generator draws them.
    """
    draws = [draw for pyramid in white for draw in pyramid.values()]
    return draws[0] if len(draws) == 1 else torch.cat([draw.flatten(1) for draw in draws], dim=1)


def noise_shape(flow: Flow, shape: Shape) -> tuple[int, ...]:
    """The shape of one sample's noise as a tensor, for samples of `shape` in the flow's space."""
    parts = _noise_parts(flow, shape)
    return parts[0][2] if len(parts) == 1 else (sum(math.prod(form) for _, _, form in parts),)


def split_noise(flow: Flow, shape: Shape, latents: Tensor, batch: int) -> list[State]:
    """The inverse of `join_noise`, for samples of `shape`. Raises `ConfigError` unless the tensor is [batch,
    *noise_shape]."""
    wanted = (batch, *noise_shape(flow, shape))
    if tuple(latents.shape) != wanted or not latents.is_floating_point():
        raise ConfigError(
            "latents must be the white noise of every sample",
            got=f"{latents.dtype} of shape {tuple(latents.shape)}",
            expected=f"floating point of shape {wanted}, as pipe.prepare_latents({batch}) gives it",
        )
    parts = _noise_parts(flow, shape)
    sizes = [math.prod(form) for _, _, form in parts]
    white: list[State] = [{} for _ in flow.finest_noise_scales()]
    for (pyramid, scale, form), draw in zip(parts, latents.flatten(1).split(sizes, dim=1), strict=True):
        white[pyramid][scale] = draw.reshape(batch, *form)
    return white


def _noise_parts(flow: Flow, shape: Shape) -> list[tuple[int, int, Shape]]:
    """(pyramid, scale, shape) of each white draw."""
    return [
        (i, k, form)
        for i in range(len(flow.finest_noise_scales()))
        for k, form in flow.noise.white_shapes(shape).items()
    ]


def check_tensor_inputs(wanted: Sequence[str], known: Sequence[str]) -> None:
    """Raises `ConfigError` for a tensor that a callback cannot be given."""
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(
            "a callback cannot be given this",
            got=", ".join(map(str, unknown)),
            expected=suggest(str(unknown[0]), known),
        )
