"""What the documents show and link to outside docs/: the examples' pages and the notebooks become pages of
the site.

A link to any other file of the repository is shown as its path, since a site has no source tree beside it.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent.parent
LINK = re.compile(r"(?<!!)\[([^]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add examples/NAME.md of each examples/NAME/README.md, and examples/notebooks/NAME.md of each
    notebook."""
    for source in sources():
        text = notebook_page(source) if source.suffix == ".ipynb" else source.read_text(encoding="utf-8")
        files.append(File.generated(config, page_name(source), content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead every link that leaves docs/ to the page made of its target."""
    origin = next(
        (s for s in sources() if page_name(s) == page.file.src_uri),
        Path(config["docs_dir"]) / page.file.src_uri,
    )
    return relinked(markdown, origin, page.file.src_uri)


def sources() -> list[Path]:
    """The files outside docs/ that become pages."""
    return sorted(
        [*(ROOT / "examples").glob("*/README.md"), *(ROOT / "examples" / "notebooks").glob("*.ipynb")]
    )


def page_name(source: Path) -> str:
    """The page of a file of the repository, as its address in docs/ would be."""
    inside = source.relative_to(ROOT).as_posix()
    return (
        inside.removesuffix("/README.md") + ".md"
        if source.name == "README.md"
        else inside.removesuffix(source.suffix) + ".md"
    )


def relinked(markdown: str, origin: Path, address: str) -> str:
    """`markdown` of the file `origin`, which is shown at `address`, with its links as the site has them."""
    pages = {source: page_name(source) for source in sources()}

    def replace(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if "://" in target:
            return link[0]
        there = (origin.parent / target).resolve()
        place = pages.get(there)
        if place is None and there.is_relative_to(ROOT / "docs"):
            place = there.relative_to(ROOT / "docs").as_posix()
        if place is None:
            path = there.relative_to(ROOT).as_posix()
            return text if path in text else f"{text} (`{path}`)"
        return f"[{text}]({posixpath.relpath(place, posixpath.dirname(address) or '.')}{anchor})"

    return LINK.sub(replace, markdown)


def notebook_page(path: Path) -> str:
    """A notebook's cells, without outputs, as Markdown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    body = "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in texts)
    return (
        f"{body}\n\nThis page is `{path.relative_to(ROOT).as_posix()}`: open it in Jupyter to run it and "
        f"see its pictures.\n"
    )
