"""Several configs under one budget, in one table: train each with each seed, sample, measure, gather.

Every run is a run folder `OUT/NAME/seed-N`, made by the ordinary training loop; a finished one is taken as it
is, an interrupted one goes on. So a comparison can be stopped, repeated, extended, or shared out over several
commands.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from lapflow.analysis.flops import cost
from lapflow.config.building import build, build_images
from lapflow.config.loading import load_config, resolved
from lapflow.config.schema import Config
from lapflow.core.errors import CheckpointError, ConfigError
from lapflow.evaluation.report import made_with, words
from lapflow.evaluation.run import evaluate_run
from lapflow.plugins.registry import create
from lapflow.sampling.pipeline import Pipeline
from lapflow.sampling.sampler import sample
from lapflow.training.loop import train
from lapflow.util.files import replace_file

TIMED_BATCH = 64


@dataclass(frozen=True)
class Entry:
    """One line of the table: a name, and the config that it stands for."""

    name: str
    source: str
    overrides: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Entry:
        """`RECIPE`, or `NAME: RECIPE key=value ...`. Raises `ConfigError`."""
        label, colon, rest = text.partition(": ")
        words = shlex.split(rest if colon else text)
        if not words:
            raise ConfigError(
                "an entry names no recipe", got=repr(text), expected="RECIPE, or 'NAME: RECIPE key=value ...'"
            )
        name = label.strip() if colon else " ".join(words)
        return cls(name, words[0], tuple(words[1:]))

    def config(self, common: Sequence[str], seed: int) -> Config:
        return load_config(self.source, [*self.overrides, *common, f"seed={seed}"])

    def folder(self, out: Path, seed: int) -> Path:
        return out / (re.sub(r"[^\w.=,-]+", "_", self.name).strip("_")[:80] or "entry") / f"seed-{seed}"


@dataclass(frozen=True)
class Row:
    """What was measured of one entry: means over the seeds, and standard deviations where there are several.

    `multiply_adds` per sample without guidance; `seconds_per_evaluation` of one batch of TIMED_BATCH samples.
    """

    name: str
    seeds: int
    frechet_ratio: float
    frechet_ratio_std: float | None
    agreement: float | None
    agreement_std: float | None
    copies: int | None
    evaluations: int
    multiply_adds: int
    seconds_per_evaluation: float
    parameters: int
    solver: str


def compare(
    entries: Sequence[Entry],
    out: Path,
    *,
    common: Sequence[str] = (),
    seeds: int = 3,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Train, sample and measure every entry with seeds 0 .. seeds-1; write `comparison.json` and
    `comparison.md` in `out`.

    `common` overrides apply to all. All configs are checked before any training. Raises what they raise.
    """
    if len({entry.folder(out, 0) for entry in entries}) < len(entries):
        raise ConfigError(
            "two entries have one name",
            got=", ".join(e.name for e in entries),
            expected="'NAME: RECIPE ...' with names that differ",
        )
    for entry in entries:
        parts = build(entry.config(common, 0))
        parts.require()
        if build_images(parts.dataset).size("test") < 2:
            raise ConfigError(
                f"{entry.name}: its data hold no images out",
                expected="held-out images, to measure a distance to",
            )
        settings = parts.config.evaluation
        if "frechet" not in settings.metrics or settings.against == "train":
            raise ConfigError(
                f"{entry.name}: its evaluation gives no Frechet ratio",
                got=f"evaluation.metrics {settings.metrics}, evaluation.against {settings.against}",
                expected="frechet among the metrics, against held-out images (auto or test)",
            )
    for seed in range(seeds):
        for entry in entries:
            _measure(entry, out, common, seed, say)
    rows = [_row(entry, out, common, seeds) for entry in entries]
    document = {
        "common": list(common),
        "entries": [asdict(e) for e in entries],
        "rows": [asdict(row) for row in rows],
    }
    replace_file(out / "comparison.json", (json.dumps(document, indent=2) + "\n").encode())
    replace_file(out / "comparison.md", (table(rows) + "\n").encode())
    return rows


def _measure(entry: Entry, out: Path, common: Sequence[str], seed: int, say: Callable[[str], None]) -> None:
    """Train and evaluate one run, unless it has been."""
    folder, config = entry.folder(out, seed), entry.config(common, seed)
    since = time.perf_counter()
    train(config, folder)
    pipeline, settings = Pipeline.load(folder), config.evaluation
    if (folder / "metrics.json").is_file():
        held = _metrics(folder)
        made = made_with(pipeline, held["made_with"]["evaluations"])
        asked = (settings.samples, made, words(settings.features))
        if (held["counts"]["samples"], held["made_with"], held["measured_in"].get("features")) == asked:
            return
    metrics = evaluate_run(folder, pipeline, num=settings.samples, evaluation=settings)
    seconds = time.perf_counter() - since
    say(f"{entry.name}, seed {seed}: {seconds:.0f} s, ratio {metrics['frechet_ratio']:.3f}")


def _metrics(folder: Path) -> dict[str, Any]:
    """What an evaluation wrote there. Raises `CheckpointError`."""
    file = folder / "metrics.json"
    try:
        # What was measured in, an earlier lapflow did not say.
        found = {"measured_in": {}, **json.loads(file.read_bytes())}
        parts = [found.get(name) for name in ("made_with", "counts", "measured_in")]
        if not all(isinstance(part, dict) for part in parts) or "frechet_ratio" not in found:
            raise ValueError("it does not say what an evaluation says")
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file} cannot be read", got=error, remedy="remove it, to have it measured again"
        ) from None
    return found


def _row(entry: Entry, out: Path, common: Sequence[str], seeds: int) -> Row:
    found = [_metrics(entry.folder(out, seed)) for seed in range(seeds)]
    ratios = [m["frechet_ratio"] for m in found]
    agreements = [m["agreement"] for m in found if "agreement" in m]
    config, pipeline = entry.config(common, 0), Pipeline.load(entry.folder(out, 0))
    evaluations, adds, seconds = _work(pipeline, config)
    return Row(
        entry.name,
        seeds,
        mean(ratios),
        stdev(ratios) if seeds > 1 else None,
        mean(agreements) if agreements else None,
        stdev(agreements) if len(agreements) > 1 else None,
        sum(m["copies"]["copies"] for m in found) if all("copies" in m for m in found) else None,
        evaluations,
        adds,
        seconds,
        sum(p.numel() for p in pipeline.model.parameters()),
        words(resolved(config)["sampling"]["solver"]),
    )


def _work(pipeline: Pipeline, config: Config) -> tuple[int, int, float]:
    """(evaluations, multiply-adds) per sample, and seconds per evaluation of one batch."""
    import torch

    flow, model, shape = pipeline.flow, pipeline.model, (TIMED_BATCH, *pipeline.shape)
    solver = create("solver", config.sampling.solver)
    asked = pipeline.conditioner(pipeline.annotations(range(TIMED_BATCH)))
    generator = torch.Generator().manual_seed(0)
    work: list[Any] = []
    since = time.perf_counter()
    sample(flow, model, shape, condition=asked, solver=solver, generator=generator, statistics=work)
    seconds = time.perf_counter() - since
    calls = [statistics.evaluations for statistics in work]
    return sum(calls), cost(config).of(calls), seconds / sum(calls)


def table(rows: Sequence[Row]) -> str:
    """The comparison as a Markdown table."""
    lines = [
        "| system | Frechet ratio | agreement | multiply-adds a sample | evaluations "
        "| s / evaluation of 64 | parameters | solver |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        spread = "" if row.frechet_ratio_std is None else f" ± {row.frechet_ratio_std:.3f}"
        agreement = "-" if row.agreement is None else f"{100 * row.agreement:.1f} %"
        lines.append(
            f"| {row.name} | {row.frechet_ratio:.3f}{spread} | {agreement} | {row.multiply_adds / 1e6:.0f} M "
            f"| {row.evaluations} | {row.seconds_per_evaluation:.4f} | {row.parameters / 1e6:.2f} M "
            f"| {row.solver} |"
        )
    return "\n".join(lines)
