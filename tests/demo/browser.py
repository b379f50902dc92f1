"""A real Chromium, without a window, for the page's tests and for its picture in the documents."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "no Chromium on the path; on Debian: apt-get install chromium"
expect.set_options(timeout=20_000)  # a busy machine may be slow to draw a page
QUIET = [
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
"""What Chromium would otherwise ask of the network by itself."""


def found() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's own Chromium; playwright would otherwise download one."""
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to start as root with one
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found(), args=[*alone, "--disable-gpu", *QUIET])
        try:
            yield browser
        finally:
            browser.close()


def panel(page: Page, name: str) -> Any:
    return page.get_by_role("region", name=name, exact=True)


def drawn(page: Page, name: str) -> Any:
    """A panel, once its picture is there."""
    found = panel(page, name)
    expect(found.get_by_role("status")).to_have_text("Done", timeout=30_000)
    return found
