"""A run of two processes of which one is killed, started again by the same command."""

import time

from lapflow.training.checkpoint import latest_checkpoint
from tests.stress.resume import CASES, PATIENCE, equal, kill


def test_one_of_two_processes_is_killed_and_the_run_goes_on_bit_for_bit(tmp_path):
    """Killed in the middle of step 8 (both wait there, so that no clock decides), after the checkpoint of
    step 6."""
    case = CASES["2 processes, ddp"]
    folder = tmp_path / "cut"
    process = case.start(folder, LAPFLOW_STRESS_HOLD="7")
    deadline = time.monotonic() + PATIENCE
    while not at_step_8(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    kill(process, folder, "1")
    assert latest_checkpoint(folder / "run" / "checkpoints").name == "step-0000006"
    equal(case.finish(folder), case.finish(tmp_path / "whole"))


def at_step_8(folder):
    return all(len(lines(folder / "records" / f"rank-{rank}.jsonl")) == 8 for rank in (0, 1))


def lines(file):
    return file.read_text().splitlines() if file.is_file() else []
