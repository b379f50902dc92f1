"""`lapflow train`: train a config in a run folder, or continue the run that is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lapflow.cli import options

if TYPE_CHECKING:
    from PIL.Image import Image

    from lapflow.config.schema import Config


def train(
    config: options.Config,
    overrides: Annotated[list[str] | None, options.changes("flow.intervals.starts=[0,0.2]")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder. Default: runs/NAME.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Take two steps, print what the second took; write nothing.")
    ] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Go on with other settings of training, or other data.")
    ] = False,
) -> None:
    """Train CONFIG. The same command continues an interrupted run."""
    from lapflow.cli.progress import watcher
    from lapflow.config.loading import load_config
    from lapflow.core.errors import BackendError
    from lapflow.sampling.pictures import loss_curve
    from lapflow.training.events import read_events, unreadable_lines
    from lapflow.training.loop import train as run

    settings = load_config(config, overrides or [])
    if dry_run:
        _dry_run(settings)
        return
    folder = out or Path("runs") / Path(config).stem
    with watcher() as watch:
        shown = False

        def show(event: dict[str, Any]) -> None:
            nonlocal shown
            shown = True
            watch(event)

        run(settings, folder, show, allow_changes)
        if not shown:
            return  # of several processes the first one shows the run
        _bands_of_an_image(settings).save(folder / "bands.png")
        watch({"event": "picture", "path": str(folder / "bands.png")})
        if passed_over := unreadable_lines(folder):
            lines = f"lines of {folder / 'log.jsonl'} that cannot be read and are passed over"
            watch({"event": "note", "text": f"{lines}: {passed_over}; no harm done"})
        try:
            loss_curve(read_events(folder), folder / "loss.png")
            watch({"event": "picture", "path": str(folder / "loss.png")})
        except BackendError as error:  # the curve needs matplotlib; the run is whole without it
            watch({"event": "note", "text": str(error)})


def _dry_run(config: Config) -> None:
    from lapflow.cli.tables import print_table, step_table, step_words
    from lapflow.training.dry_run import dry_run

    if (found := dry_run(config)) is not None:  # of several processes the first one says it
        print_table(step_table(found))
        typer.echo(step_words(found))


def _bands_of_an_image(config: Config) -> Image:
    """What the decomposition makes of the first training image, in the flow's space."""
    from lapflow.config.building import build
    from lapflow.data.quarantine import read_or_substitute
    from lapflow.sampling.pictures import band_picture

    parts = build(config, "meta")
    sample, _ = read_or_substitute(parts.dataset, "train", 0)
    latents = parts.encode(sample.value[None])
    return band_picture({k: x[0] for k, x in parts.flow.decomposition.analyze(latents).items()}, latents[0])
