"""The command `lapflow`, one file per command."""

from lapflow.cli.app import main, program

__all__ = ["main", "program"]
