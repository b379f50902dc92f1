"""What a page asks for: one sample. Every field is checked, and nothing in it is ever a path, a module or a
key of the config."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field

from lapflow.core.component import validate
from lapflow.core.condition import Condition
from lapflow.core.errors import ConfigError, suggest
from lapflow.core.guidance import Guidance
from lapflow.core.solver import Solver
from lapflow.demo.capabilities import MAX_GUIDANCE, MAX_SEED, MAX_STEPS, Capabilities

MAX_BYTES = 4096
"""Of a request's body."""


class DrawRequest(BaseModel):
    """The settings of a panel. None is the run's own, as where `lapflow sample` is not given the option."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    label: str | None = Field(None, alias="class", max_length=200, description="a class's name or number")
    guidance: float | None = Field(
        None, ge=0, le=MAX_GUIDANCE, description="scale of classifier-free guidance"
    )
    solver: str = Field(max_length=100, description="a solver that fits the run")
    steps: int | None = Field(None, ge=1, le=MAX_STEPS, description="steps in each segment")
    seed: int = Field(ge=0, le=MAX_SEED, description="the seed of the noise")


@dataclass(frozen=True)
class Drawing:
    """A request, resolved: what the sampler takes (`condition` of one sample), and the `command` that writes
    the same picture."""

    condition: Condition
    solver: Solver
    guidance: Guidance
    seed: int
    command: str


def read_draw_request(body: bytes) -> DrawRequest:
    """What a request's body asks for. Raises `ConfigError` naming the field that is wrong."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ConfigError("the request cannot be read", expected="a JSON object with the settings of a panel")
    checked = validate(DrawRequest, values, "the request")
    assert isinstance(checked, DrawRequest)
    return checked


def resolve(draw_request: DrawRequest, capabilities: Capabilities) -> Drawing:
    """The drawing of a request. Raises `ConfigError` for what the run has not, before any work."""
    pipeline = capabilities.pipeline
    if draw_request.solver not in capabilities.solvers:
        raise ConfigError(
            "this solver does not fit the run",
            got=draw_request.solver,
            expected=suggest(draw_request.solver, capabilities.solvers),
        )
    if draw_request.label is None and pipeline.class_names:
        raise ConfigError("a class is needed", got="none", expected=suggest("", pipeline.class_names[:50]))
    labels = None if draw_request.label is None else torch.tensor([pipeline.label(draw_request.label)])
    solver = capabilities.solver(draw_request.solver, draw_request.steps)
    return Drawing(
        Condition.of(labels),
        solver,
        pipeline.require(solver, draw_request.guidance),
        draw_request.seed,
        command(draw_request, capabilities),
    )


def command(draw_request: DrawRequest, capabilities: Capabilities) -> str:
    """The line for a shell that writes this very picture, as the one image of its folder."""
    chosen = {
        "--class": draw_request.label,
        "--guidance": draw_request.guidance,
        "--solver": draw_request.solver,
        "--steps": draw_request.steps,
        "--seed": draw_request.seed,
    }
    words = ["lapflow", "sample", str(capabilities.run), "--num", "1"]
    for option, value in {**chosen, **capabilities.options}.items():
        if value is not None:
            words += [option, str(value)]
    return shlex.join(words)
