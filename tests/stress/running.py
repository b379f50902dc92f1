"""The campaigns as a test runs them: each in a process of its own, with other options than a person would
give."""

import subprocess
import sys

from tests.backends.launching import ROOT, environment


def campaign(name, *options):
    """The exit code and the output of `python -m tests.stress.NAME`."""
    command = [sys.executable, "-m", f"tests.stress.{name}", *options]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    return done.returncode, done.stdout
