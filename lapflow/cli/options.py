"""The options that several commands have, each said once."""

from __future__ import annotations

from typing import Annotated

import typer

Guidance = Annotated[
    float | None, typer.Option(help="Scale of classifier-free guidance; 1 is off. Default: the config's.")
]
Solver = Annotated[
    str | None, typer.Option(help="Solver, such as euler, heun, dopri5. Default: the config's.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps in each segment, for a fixed-step solver.")]
Seed = Annotated[int, typer.Option(help="Sample i is a function of (seed, i) and its class.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images drawn at once. Default: the config's.")]
Weights = Annotated[str | None, typer.Option(help="ema or raw. Default: the config's sampling.weights.")]
Checkpoint = Annotated[
    str | None, typer.Option(help="A checkpoint's name, such as step-0001000. Default: the newest.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Attention = Annotated[str | None, typer.Option(help="Attention backend. Default: the config's.")]
