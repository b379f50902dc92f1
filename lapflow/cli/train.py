"""`lapflow train`: train a config in a run folder, or continue the run that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[str, typer.Argument(help="A recipe's name or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes, such as flow.intervals.starts=[0,0.2].", metavar="[KEY=VALUE]...")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder. Default: runs/NAME.")] = None,
) -> None:
    """Train CONFIG. The same command continues an interrupted run."""
    from lapflow.cli.progress import watcher
    from lapflow.config.loading import load_config
    from lapflow.core.errors import BackendError
    from lapflow.training.events import read_events
    from lapflow.training.loop import train as run

    folder = out or Path("runs") / Path(config).stem
    settings = load_config(config, overrides or [])
    with watcher() as watch:
        run(settings, folder, watch)
        try:
            from lapflow.sampling.pictures import loss_curve

            loss_curve(read_events(folder), folder / "loss.png")
            watch({"event": "picture", "path": str(folder / "loss.png")})
        except BackendError as error:  # the curve needs matplotlib; the run is whole without it
            watch({"event": "note", "text": str(error)})
