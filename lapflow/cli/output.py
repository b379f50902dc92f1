"""Printing tables: as wide as the terminal; in a pipe as wide as the text, so that a line stays a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def print_table(table: Table) -> None:
    """Print on stdout; square brackets in cells are text."""
    from rich.console import Console

    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(markup=False, width=1000)
    console.print(table)
