"""What a page asks for: one sample. Every field is checked, and nothing in it is ever a path, a module or a
key of the config."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from lapflow.core.component import validate
from lapflow.core.errors import ConfigError, suggest
from lapflow.core.guidance import Guidance
from lapflow.core.solver import Solver
from lapflow.demo.offer import MOST_GUIDANCE, MOST_SEED, MOST_STEPS, Offer

MOST_BYTES = 4096
"""Of a request's body."""


class Wish(BaseModel):
    """The settings of a panel. None is the run's own, as where `lapflow sample` is not given the option."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    label: str | None = Field(
        default=None, alias="class", max_length=200, description="a class's name or number"
    )
    guidance: float | None = Field(
        default=None, ge=0, le=MOST_GUIDANCE, description="scale of classifier-free guidance"
    )
    solver: str = Field(max_length=100, description="a solver that fits the run")
    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS, description="steps in each segment")
    seed: int = Field(ge=0, le=MOST_SEED, description="the seed of the noise")


@dataclass(frozen=True)
class Drawing:
    """A wish, resolved: what the sampler takes (`labels` [1] or None), and the `command` that writes the same
    picture."""

    labels: Tensor | None
    solver: Solver
    guidance: Guidance
    seed: int
    command: str


def read_wish(body: bytes) -> Wish:
    """The wish in a request's body. Raises `ConfigError` naming the field that is wrong."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ConfigError("the request cannot be read", expected="a JSON object with the settings of a panel")
    checked = validate(Wish, values, "the request")
    assert isinstance(checked, Wish)
    return checked


def resolve(wish: Wish, offer: Offer) -> Drawing:
    """The drawing of a wish. Raises `ConfigError` for what the run has not, before any work."""
    pipeline = offer.pipeline
    if wish.solver not in offer.solvers:
        raise ConfigError(
            "this solver does not fit the run", got=wish.solver, expected=suggest(wish.solver, offer.solvers)
        )
    if wish.label is None and pipeline.class_names:
        raise ConfigError("a class is needed", got="none", expected=suggest("", pipeline.class_names[:50]))
    labels = None if wish.label is None else torch.tensor([pipeline.label(wish.label)])
    solver = offer.solver(wish.solver, wish.steps)
    return Drawing(labels, solver, pipeline.require(solver, wish.guidance), wish.seed, command(wish, offer))


def command(wish: Wish, offer: Offer) -> str:
    """The line for a shell that writes this very picture, as the one image of its folder."""
    chosen = {
        "--class": wish.label,
        "--guidance": wish.guidance,
        "--solver": wish.solver,
        "--steps": wish.steps,
        "--seed": wish.seed,
    }
    options = {name: value for name, value in {**chosen, **offer.options}.items() if value is not None}
    return shlex.join(
        [
            "lapflow",
            "sample",
            str(offer.run),
            "--num",
            "1",
            *(str(word) for pair in options.items() for word in pair),
        ]
    )
