"""docs/recipes.md: every recipe, from its first comment, its network's cost and what was measured, at `<!--
recipes -->`."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from statistics import mean
from typing import Any

from lapflow.analysis.flops import Cost, cost
from lapflow.config.loading import load_config, recipes

ROOT = Path(__file__).parent.parent.parent
MARK = "<!-- recipes -->"
MEASURED = ROOT / "benchmarks" / "results" / "digits-seeds.json"
STAND_INS = {"lapflow-folder": ["data=glyphs", "data.size=64"]}
"""Where a recipe leaves its data open: other data of the same size."""


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill the page that has the mark."""
    return markdown.replace(MARK, tables()) if MARK in markdown else markdown


def tables() -> str:
    """Two tables: the recipes that train on a CPU, with what was measured, and the paper-sized ones."""
    small = [name for name in recipes() if name.endswith("-digits")]
    large = [name for name in recipes() if name not in small]
    measured = {row["name"]: row for row in json.loads(MEASURED.read_text(encoding="utf-8"))["rows"]}
    return "\n".join(
        [
            "## On the built-in digits\n",
            "| recipe | what it is | parameters | multiply-adds | of one scale | Frechet ratio | agreement |",
            "|---|---|---:|---:|---:|---:|---:|",
            *(f"{start(name)} {results(measured.get(name))} |" for name in small),
            "\n## Larger ones\n",
            "| recipe | what it is | parameters | multiply-adds | of one scale |",
            "|---|---|---:|---:|---:|",
            *(start(name) for name in large),
        ]
    )


def start(name: str) -> str:
    """The columns that every recipe has."""
    found = cost_of(name)
    work = f"{found.mean / 1e9:.2f} G" if found.mean >= 1e9 else f"{found.mean / 1e6:.1f} M"
    return (
        f"| `{name}` | {summary(name)} | {found.parameters / 1e6:.2f} M | {work} | "
        f"{found.ratio_to_single_scale:.3f} |"
    )


def cost_of(name: str) -> Cost:
    """Parameters and multiply-adds of a recipe, counted without allocating anything."""
    return cost(load_config(name, STAND_INS.get(name, [])))


def results(row: dict[str, Any] | None) -> str:
    """What `lapflow compare` measured of a recipe, the means over its seeds; or that nothing was."""
    return f"{mean(row['frechet_ratio']):.3f} | {100 * mean(row['agreement']):.1f} %" if row else "- | -"


def summary(name: str) -> str:
    """The first sentence of a recipe's comment: its first line, and the next where the sentence goes on."""
    lines = (resources.files("lapflow.recipes") / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    words = []
    for line in lines:
        if not line.startswith("# ") or line.startswith("#  "):
            break
        words.append(line.removeprefix("# "))
    return re.split(r"(?<!al)\. ", " ".join(words))[0].rstrip(".").replace("|", r"\|")
