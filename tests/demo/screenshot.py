"""The picture of the page in the documents: `python -m tests.demo.screenshot RUN FILE [WIDTH HEIGHT
light|dark]`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.demo.browser import chromium, drawn
from tests.demo.builders import command

SETTINGS = (
    "a.class={0}&a.guidance=1&a.solver=heun&a.steps=10&a.seed={1}"
    "&b.class={0}&b.guidance=4&b.solver=heun&b.steps=10&b.seed={1}"
)


def picture(run: Path, file: Path, width: int = 1280, height: int = 680, scheme: str = "light") -> None:
    """Open the page of a run of ten digits, wait for both pictures, and save what is seen."""
    with command(run) as (_, url), chromium() as browser:
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light"
        )
        page.goto(f"{url}#{SETTINGS.format(8, 4)}")
        for name in "AB":
            drawn(page, name)
        page.screenshot(path=file, full_page=True)


if __name__ == "__main__":
    run, file, *rest = sys.argv[1:]
    picture(Path(run), Path(file), *map(int, rest[:2]), *rest[2:])
