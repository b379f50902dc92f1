"""Kill -9 at every write point of a save, and of a run.

    python -m tests.stress.kills [--every N] [--only NAME ...] [--saver naive]

Each scenario is a folder, and something that writes in it. A dry run counts the write points (see
`write_points`); then, for each of them, a child process does it in a fresh copy of the folder and is killed
there, and what it left is judged: the newest checkpoint loads, whole, and is never older than the last one
whose save returned; every directory with a checkpoint's name is one; doing the same again works, and so does
the next save, after which nothing else lies about. A killed run is continued by the same command to its end
and must equal, bit for bit, the run that nobody killed. Exit code 1 if anything fails.
"""

import argparse
import collections
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lapflow.config.loading import load_config
from lapflow.core.errors import LapflowError
from lapflow.training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint, save_checkpoint
from lapflow.training.loop import train
from lapflow.training.run_folder import run_config
from tests.stress.forks import run as fork
from tests.stress.write_points import Points, watch
from tests.training.runs import last, losses, same

KEEP = 2
KILLED = -9
ALWAYS = ("rename", "replace", "mkdir")
"""Steps at which a thinned campaign kills all the same."""


@dataclass(frozen=True)
class Scenario:
    """`prepare` makes what is there before, `act` is killed, `judge` says what was found ("old", "new") or
    raises."""

    prepare: Callable[[Path], object]
    act: Callable[[Path], object]
    judge: Callable[[Path], str]


# ---------------------------------------------------------------------- saves alone


def naive_save(folder: Path, step: int, checkpoint: Checkpoint, keep: int) -> Path:
    """A save as one might write it in a hurry, to see that the campaign finds it out: straight into the final
    directory."""
    from lapflow.training.checkpoint import FORMAT, MANIFEST, save_tensors, write_durably

    path = folder / f"step-{step:07d}"
    path.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for name, group in checkpoint.tensors.items():
        hashes[f"{name}.safetensors"] = write_durably(path / f"{name}.safetensors", save_tensors(group))
    for name, document in checkpoint.documents.items():
        hashes[f"{name}.json"] = write_durably(path / f"{name}.json", json.dumps(document).encode())
    write_durably(path / MANIFEST, json.dumps({"format": FORMAT, "step": step, "sha256": hashes}).encode())
    return path


SAVERS = {"lapflow": save_checkpoint, "naive": naive_save}


def marked(mark: int) -> Checkpoint:
    """A checkpoint whose every file says `mark`."""
    groups = {name: {"w": torch.full((64,), float(mark))} for name in ("model", "optimizer", "ema")}
    return Checkpoint(groups, {"state": {"mark": mark}, "config": {"mark": mark}})


def mark_of(path: Path) -> int:
    """The mark of a checkpoint, which must be the same in all of its files."""
    held = load_checkpoint(path, needs=("model", "optimizer", "ema", "state", "config"))
    marks = {document["mark"] for document in held.documents.values()}
    marks |= {int(x) for group in held.tensors.values() for x in group["w"]}
    assert len(marks) == 1, f"{path.name} is mixed of {marks}"
    return marks.pop()


def saving(
    save: Callable[[Path, int, Checkpoint, int], Path], before: dict[int, int], step: int, mark: int
) -> Scenario:
    """Saves of {step: mark} before; then one of `step` with `mark` is killed."""

    def act(folder: Path) -> None:
        save(folder, step, marked(mark), KEEP)

    def prepare(folder: Path) -> None:
        folder.mkdir()
        for old, its in before.items():
            save_checkpoint(folder, old, marked(its), KEEP)

    def judge(folder: Path) -> str:
        newest = latest_checkpoint(folder)
        found = None if newest is None else mark_of(newest)
        known = list(before.values())[-1] if before else None
        assert found in (known, mark), f"found {found}, saved was {known}"
        for path in folder.glob("step-*"):
            mark_of(path)
        act(folder)
        assert mark_of(latest_checkpoint(folder)) == mark, "saving again"
        path = save_checkpoint(folder, max(step, *before, step) + 1, marked(99), KEEP)
        assert mark_of(path) == mark_of(latest_checkpoint(folder)) == 99, "the next save"
        names = sorted(p.name for p in folder.iterdir())
        assert names[:1] == ["latest"], f"left over: {names}"
        assert len(names) == 1 + min(KEEP, len({*before, step}) + 1), f"left over: {names}"
        return "new" if found == mark else "old"

    return Scenario(prepare, act, judge)


# ---------------------------------------------------------------------- whole runs

TINY = [
    *("model.width=16", "model.heads=1", "model.depth=1", "training.batch_size=8", "training.warmup_steps=2"),
    *("training.steps=3", "training.log_every=1", "training.checkpoint_every=1", "training.save_patience=0"),
]


def carry_on(folder: Path, *overrides: str) -> None:
    torch.set_num_threads(1)
    train(load_config("lapflow-digits", [*TINY, *overrides]), folder)


def stop_at_2(folder: Path) -> None:
    def watcher(event: dict) -> None:
        if event["event"] == "checkpoint" and event["step"] == 2:
            raise KeyboardInterrupt

    try:
        train(load_config("lapflow-digits", TINY), folder, watcher)
    except KeyboardInterrupt:
        return


def training(whole: Path, prepare: Callable[[Path], object], least: int, *overrides: str) -> Scenario:
    """A run that starts, or continues from step `least` with other settings, saves and prunes; killed
    anywhere."""

    def act(folder: Path) -> None:
        carry_on(folder, *overrides)

    def judge(folder: Path) -> str:
        newest = latest_checkpoint(folder / "checkpoints")
        step = 0 if newest is None else load_checkpoint(newest).documents["state"]["step"]
        assert step >= least, f"the newest checkpoint is of step {step}, and {least} was saved"
        if least:
            run_config(folder)
        assert fork(lambda: act(folder)) == 0, "the same command does not continue the run"
        same(last(folder), last(whole))
        assert losses(folder) == losses(whole), "the log's losses differ"
        left = [str(p.relative_to(folder)) for p in folder.rglob(".*") if p.name != ".lock"]
        assert not left, f"left over: {left}"
        return "new" if step > least else "old"

    return Scenario(prepare, act, judge)


# ---------------------------------------------------------------------- the campaign


def scenarios(work: Path, save: Callable[[Path, int, Checkpoint, int], Path]) -> dict[str, Scenario]:
    whole = work / "whole"
    carry_on(whole)  # in this process, so that what it imports and caches need not be imported by each child
    stop = "training.keep_checkpoints=1"
    return {
        "first save": saving(save, {}, 1, 11),
        "later save, prunes": saving(save, {1: 11, 2: 12}, 3, 13),
        "same step again": saving(save, {1: 11, 2: 12}, 2, 22),
        "run from its start": training(whole, lambda folder: None, 0),
        "run continued, changed": training(whole, lambda folder: fork(lambda: stop_at_2(folder)), 2, stop),
    }


def act_watched(scenario: Scenario, folder: Path, kill: int | None, names: Path | None = None) -> None:
    points = Points(kill)
    plain = Path.write_text
    watch(folder, points)
    scenario.act(folder)
    if names is not None:
        plain(names, json.dumps(points.names))


def campaign(name: str, scenario: Scenario, work: Path, every: int) -> collections.Counter:
    """Kill at each `every`-th write point of `scenario`; what was found, counted, and failures printed."""
    template, names, folder = work / "template", work / "names.json", work / "folder"

    def fresh(at: Path) -> None:
        shutil.rmtree(at, ignore_errors=True)
        if template.exists():
            shutil.copytree(template, at)

    shutil.rmtree(template, ignore_errors=True)
    scenario.prepare(template)
    fresh(folder)
    assert fork(lambda: act_watched(scenario, folder, None, names)) == 0, "the dry run failed"
    points = json.loads(names.read_text())
    outcomes = collections.Counter(points=len(points))
    seen = "old"
    for number, point in enumerate(points, 1):
        if number % every and not any(step in point for step in ALWAYS):
            continue
        fresh(folder)
        code = fork(lambda number=number: act_watched(scenario, folder, number))
        outcomes["kills"] += code == KILLED
        try:
            assert code == KILLED, f"ended with {code} and was not killed"
            found = scenario.judge(folder)
            assert (seen, found) != ("new", "old"), (
                "an earlier kill left the new checkpoint, this one the old"
            )
            outcomes[found] += 1
            seen = found
        except (AssertionError, LapflowError, OSError, ValueError) as error:
            outcomes["failed"] += 1
            print(
                f"FAILED: {name}, killed at point {number}, {point}:\n  {type(error).__name__}: {error}",
                flush=True,
            )
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--every", type=int, default=1, help="kill at each N-th write point and around renames only"
    )
    parser.add_argument(
        "--runs-every",
        type=int,
        default=4,
        help="of whole runs, which take seconds each, kill at each N-th write point only",
    )
    parser.add_argument("--only", nargs="*", help="scenarios, by the beginnings of their names")
    parser.add_argument(
        "--saver",
        choices=SAVERS,
        default="lapflow",
        help="naive: a save that is not safe, which must be found out",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("points", "kills", "old", "new", "failed")
    total: collections.Counter = collections.Counter()
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for name, scenario in scenarios(Path(work), SAVERS[options.saver]).items():
            if options.only and not name.startswith(tuple(options.only)):
                continue
            found = campaign(name, scenario, Path(work), options.every)
            total += found
            rows.append((name, found))
    print(f"{'scenario':<24}" + "".join(f"{column:>8}" for column in columns))
    for name, found in [*rows, ("all", total)]:
        print(f"{name:<24}" + "".join(f"{found[column]:>8}" for column in columns))
    return int(total["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
