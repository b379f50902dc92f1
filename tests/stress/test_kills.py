"""The campaign of kills, shortened: at each third write point of a save and around every rename, and around those of a run."""

import subprocess
import sys

from tests.backends.launching import ROOT, environment


def campaign(*options):
    command = [sys.executable, "-m", "tests.stress.kills", *options]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900)


def test_no_kill_loses_a_checkpoint():
    done = campaign("--every", "3", "--only", "first", "later", "same")
    assert done.returncode == 0, done.stdout + done.stderr
    kills, old, new, failed = map(int, done.stdout.splitlines()[-1].split()[2:])
    assert kills == old + new >= 60
    assert old > 10 < new
    assert failed == 0


def test_a_killed_run_goes_on_to_the_same_end():
    done = campaign("--every", "1000", "--only", "run from")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1].split()[2]) >= 20


def test_a_save_that_is_not_safe_is_found_out():
    done = campaign("--saver", "naive", "--every", "8", "--only", "first")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: first save, killed at point" in done.stdout
