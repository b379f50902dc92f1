"""The arguments and options that several commands have, each said once."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def changes(example: str, what: str = "Changes") -> Any:
    """The argument of a command for the overrides of its config."""
    return typer.Argument(help=f"{what}, such as {example}.", metavar="[KEY=VALUE]...")


Config = Annotated[str, typer.Argument(help="A recipe's name or a YAML file.")]
Changes = Annotated[list[str] | None, changes("flow.path=gvp")]
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
DataAt = Annotated[list[str] | None, changes("data.root=PATH", "Where the data lie now")]
AllowChanges = Annotated[
    bool, typer.Option("--allow-changes", help="Take other data than the run was trained on.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
