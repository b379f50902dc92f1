"""The command `lapflow`: its commands, and how an error is shown.

No module imported here may import torch, so that `--help` answers at once: a command's heavy imports stand
inside it.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from lapflow import __version__
from lapflow.cli import components, config
from lapflow.cli.check import check
from lapflow.cli.compare import compare
from lapflow.cli.demo import demo
from lapflow.cli.doctor import doctor
from lapflow.cli.encode import encode
from lapflow.cli.evaluate import evaluate
from lapflow.cli.export import export
from lapflow.cli.flops import flops
from lapflow.cli.progress import silence
from lapflow.cli.sample import sample
from lapflow.cli.train import train
from lapflow.core.errors import ConfigError, LapflowError

app = typer.Typer(
    name="lapflow",
    help="Multi-scale flow-matching generative models, composed by config.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (encode, train, sample, evaluate, compare, export, demo, check, flops, doctor):
    app.command()(command)
app.add_typer(config.app, name="config")
app.add_typer(components.app, name="components")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """The options that every command has; `main` reads --debug."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. A user's mistake is one screen on stderr and exit code 2; `--debug`, which may
    stand anywhere, shows the traceback."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    try:
        app([argument for argument in given if argument != "--debug"], standalone_mode=True)
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        silence()
        sys.exit(0)
    except LapflowError as error:
        if debug:
            raise
        if (signed := _signed(error)) is not None:
            typer.echo(f"lapflow{signed}: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            raise
        refused = LapflowError(
            f"the system refused: {error.strerror or error}", got=error.filename or "no file named"
        )
        typer.echo(f"lapflow: {refused}", err=True)
        sys.exit(refused.exit_code)


def program() -> None:
    """`main` as a process of its own. One of several ends without Python's tearing down: threads of a process
    group that is still there (DeepSpeed's is never given up) may abort it, and the launcher would report a
    finished run as failed."""
    try:
        main()
    except SystemExit as end:
        torch = sys.modules.get("torch")
        if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


def _signed(error: LapflowError) -> str | None:
    """How this process signs an error: '' when it is alone, ' (rank N)' among several; None where another
    says the same: a config that cannot be used is the same for all, also before the processes have met."""
    rank = os.environ.get("RANK", "0")
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ""
    torch = sys.modules.get("torch")
    met = torch is not None and torch.distributed.is_initialized()
    common = isinstance(error, ConfigError) and rank != "0" and not met
    return None if error.said or common else f" (rank {rank})"
