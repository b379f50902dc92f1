"""The site's navigation is docs/index.md: its headings are sections, the first link of each list item is a
page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
HEADING = re.compile(r"^## (.+)$")
ENTRY = re.compile(r"^- \[[^]]+\]\(([^)#]+)")


def on_config(config: Any) -> Any:
    """Set `nav` before MkDocs reads it."""
    config["nav"] = navigation((Path(config["docs_dir"]) / "index.md").read_text(encoding="utf-8"))
    return config


def navigation(index: str) -> list[Any]:
    """MkDocs' `nav` of an index page. Titles are the pages' own, so an entry's words may be longer."""
    nav: list[Any] = ["index.md"]
    pages = nav
    for line in index.splitlines():
        if found := HEADING.match(line):
            pages = []
            nav.append({found[1]: pages})
        elif (found := ENTRY.match(line)) and not found[1].startswith("http"):
            pages.append(page_of(found[1]))
    return nav


def page_of(target: str) -> str:
    """The page of a link in docs/: itself, or for an example outside docs/ the page that outside.py makes of
    it."""
    if not target.startswith("../"):
        return target
    return re.sub(r"(/README\.md|\.ipynb)$", ".md", target.removeprefix("../"))
