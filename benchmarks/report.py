"""The tables of docs/performance.md, from the results: `python -m benchmarks.report`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.measure import RESULTS, table

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text()))


def filled(page: str) -> str:
    """The page with what stands between `<!-- NAME -->` and `<!-- end -->` made anew from NAME.json."""
    return re.sub(
        r"<!-- (\w+) -->\n.*?<!-- end -->",
        lambda found: f"<!-- {found[1]} -->\n{section(found[1])}\n<!-- end -->",
        page,
        flags=re.S,
    )


def section(name: str) -> str:
    """What was measured under NAME: its picture, where one was drawn, and its table; or that nothing was."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return f"Not measured: `python -m benchmarks.{name}`."
    found = json.loads(path.read_text())
    where = found["machine"]
    at = where.get("gpu", f"{where['processor']}, {where['threads']} threads")
    drawn = (
        f"![{name}](pictures/{name}.png)\n\n" if (PAGE.parent / "pictures" / f"{name}.png").exists() else ""
    )
    return (
        f"{drawn}`{found['command']}`, {at}, torch {where['torch']}, "
        f"{where['date']}:\n\n{table(found['rows'])}"
    )


if __name__ == "__main__":
    main()
