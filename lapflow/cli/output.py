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


def new_table(title: str, caption: str = "") -> Table:
    """A table in the style of all, without columns."""
    from rich.table import Table

    return Table(
        title=title,
        caption=caption or None,
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        title_style="bold",
    )
