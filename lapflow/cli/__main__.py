"""`python -m lapflow.cli`."""

from lapflow.cli.app import program

program()
