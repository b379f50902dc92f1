"""The command `lapflow`, one file per command."""

from lapflow.cli.app import main

__all__ = ["main"]
