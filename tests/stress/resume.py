"""Runs killed with kill -9 at random moments, and started again by the same command, against the run that
nobody killed.

    python -m tests.stress.resume [--rounds N] [--kills N] [--seed N] [--only NAME ...]

Each round trains in a fresh folder, is killed `--kills` times (one process of it, drawn at random, or all
with their launcher) and then left to its end. Weights, average, optimizer state, counts and logged losses
must be those of the uninterrupted run bit for bit; so must the images, and the generator of the segments, of
every batch that any of the processes saw. Exit code 1 if anything differs.
"""

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lapflow.training.events import read_events
from tests.backends.launching import ROOT, environment, torchrun
from tests.training.runs import last, losses, same

STEPS = 40
"""Of 64 images: an epoch of the digits is 23 to 28 of them, so that runs are killed in the first and in the
second."""
TINY = [
    *(
        "model.width=16",
        "model.heads=1",
        "model.depth=1",
        "training.batch_size=64",
        "training.warmup_steps=2",
        f"training.steps={STEPS}",
    ),
    *(
        "training.log_every=1",
        "training.checkpoint_every=3",
        "training.flip=true",
        "flow.intervals.segment_sampling=batch",
    ),
]
PATIENCE = 300
"""Seconds until a process that does nothing is taken for hung."""


@dataclass(frozen=True)
class Case:
    processes: int
    overrides: tuple[str, ...] = ()

    def start(self, folder: Path, **more: str) -> subprocess.Popen:
        """The command, always the same, that trains in `folder`."""
        for old in pid_files(folder):
            old.unlink()
        command = [
            "tests.stress.recorded",
            folder / "records",
            "lapflow-digits",
            folder / "run",
            *TINY,
            *self.overrides,
        ]
        if self.processes > 1:
            return torchrun(*command, processes=self.processes, **more)
        return subprocess.Popen(
            [sys.executable, "-m", *map(str, command)],
            cwd=ROOT,
            env=environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, folder: Path) -> Path:
        process = self.start(folder)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output[-4000:]
        return folder


CASES = {
    "1 process": Case(1),
    "1 process, 2 workers": Case(1, ("training.workers=2",)),
    "2 processes, ddp": Case(2),
    "2 processes, ddp, 2 workers": Case(2, ("training.workers=2",)),
    "2 processes, fsdp2": Case(2, ("engine.parallel=fsdp2",)),
    "2 processes, zero 2": Case(2, ("engine={name: deepspeed, device: cpu, zero: 2}",)),
}


def pid_files(folder: Path) -> list[Path]:
    return sorted((folder / "records").glob("*.pid"))


def step_of(folder: Path) -> int:
    """The last step in the log of the run."""
    return max(
        (event["step"] for event in read_events(folder / "run") if event["event"] == "train"), default=0
    )


def batches(folder: Path) -> dict[tuple, set[tuple[str, str]]]:
    """What was seen at each position, on any rank; more than one thing if a repeated step saw another."""
    seen = collections.defaultdict(set)
    for file in (folder / "records").glob("*.jsonl"):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            seen[tuple(entry["positions"])].add((entry["images"], entry["stage"]))
    return seen


def kill(process: subprocess.Popen, folder: Path, victim: str) -> None:
    """SIGKILL to one rank ("0", "1") or to "all", the launcher too; waits for the end of what is left."""
    pids = {file.stem.removeprefix("rank-"): int(file.read_text()) for file in pid_files(folder)}
    for pid in dict.fromkeys([process.pid, *pids.values()] if victim == "all" else [pids[victim]]):
        with suppress(ProcessLookupError):  # the launcher may have ended it meanwhile
            os.kill(pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0, "a run with a killed process said that all went well"
    if victim != "all" and len(pids) > 1:
        assert "Signal 9" in output or "SIGKILL" in output, output[-4000:]


def equal(folder: Path, whole: Path) -> None:
    same(last(folder / "run"), last(whole / "run"))
    assert losses(folder / "run") == losses(whole / "run"), "the losses in the logs differ"
    assert batches(folder) == batches(whole), "a batch had other images, or other segments"
    assert not list((folder / "run" / "checkpoints").glob(".*")), "left over"


def interrupted(case: Case, folder: Path, kills: int, draw: random.Random) -> list[tuple[int, str]]:
    """Train in `folder` with `kills` at random moments; (step, victim) of each that came before the end."""
    done = []
    for _ in range(kills):
        wait_for, victim = draw.randrange(1, STEPS), draw.choice(["all", *map(str, range(case.processes))])
        process = case.start(folder, LAPFLOW_STRESS_PAUSE="0.03")
        deadline = time.monotonic() + PATIENCE
        while (
            step_of(folder) < wait_for or len(pid_files(folder)) < case.processes
        ) and process.poll() is None:
            assert time.monotonic() < deadline, "no step for minutes"
            time.sleep(draw.uniform(0.001, 0.05))
        time.sleep(draw.uniform(0, 0.5))
        if process.poll() is not None:
            output, _ = process.communicate()
            assert process.returncode == 0, output[-4000:]
            break
        kill(process, folder, victim)
        done.append((step_of(folder), victim))
    case.finish(folder)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="interrupted runs of each case")
    parser.add_argument("--kills", type=int, default=2, help="kills in each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--only", nargs="*", help="cases, by the beginnings of their names")
    options = parser.parse_args()
    draw, failed = random.Random(options.seed), 0
    print(f"{'case':<30}{'rounds':>8}{'kills':>8}{'equal':>8}  step: killed", flush=True)
    for name, case in CASES.items():
        if options.only and not name.startswith(tuple(options.only)):
            continue
        good, kills = 0, []
        with tempfile.TemporaryDirectory() as work:
            whole = case.finish(Path(work) / "whole")
            for number in range(options.rounds):
                try:
                    folder = Path(work) / f"round-{number}"
                    kills += interrupted(case, folder, options.kills, draw)
                    equal(folder, whole)
                    good += 1
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    print(f"FAILED: {name}, round {number}, killed {kills}: {error}", flush=True)
        failed += options.rounds - good
        moments = ", ".join(f"{step}: {victim}" for step, victim in kills)
        print(f"{name:<30}{options.rounds:>8}{len(kills):>8}{good:>8}  {moments}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
