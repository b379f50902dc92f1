"""Evaluations by real processes: two are as good as one, a killed one goes on, 50,000 samples take no more
memory than few."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from lapflow.evaluation.resumable import BLOCKS
from tests.backends.launching import ROOT, environment, torchrun

pytestmark = pytest.mark.xdist_group("processes")

NUM = 240
EVERYTHING = [
    "evaluation.metrics=[frechet,kid,precision-recall,copies]",
    "evaluation.kid={subsets: 10, subset_size: 50}",
    "evaluation.kept=100",
    f"evaluation.samples={NUM}",  # torchrun takes --num for a short form of one of its own options
    "--batch-size",
    "8",
]


def command(run, out, *more):
    return ["lapflow.cli", "evaluate", run, *EVERYTHING, "--npz", out / "samples.npz", "--out", out, *more]


def alone(run, out, *more):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command(run, out, *more))],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def done(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output[-4000:]
    return output


def events(output):
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def read_until(process, event, count):
    """Reads what the process says until it has done so much."""
    for line in process.stdout:
        if line.startswith("{") and (said := json.loads(line))["event"] == event and said["done"] >= count:
            return
    pytest.fail(f"it ended before it had done {count} {event}")


def results(out):
    metrics = json.loads((out / "metrics.json").read_text())
    with np.load(out / "samples.npz", allow_pickle=False) as arrays:
        return metrics, arrays["arr_0"], arrays["arr_1"]


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """The results of one process that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    done(alone(trained, out))
    return results(out)


def test_two_processes_are_as_good_as_one(trained, whole, tmp_path):
    output = done(torchrun(*command(trained, tmp_path)))
    metrics, pixels, labels = results(tmp_path)
    assert metrics == whole[0]
    assert np.array_equal(pixels, whole[1])
    assert np.array_equal(labels, whole[2])
    assert output.count("Frechet distance to held-out images") == 1
    assert next(e["total"] for e in events(output) if e["event"] == "sampling") == NUM / 2
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize(("event", "count"), [("real images (train)", 600), ("sampling", 100)])
def test_a_killed_one_goes_on_bit_for_bit(trained, whole, tmp_path, event, count):
    process = alone(trained, tmp_path)
    read_until(process, event, count)
    process.kill()
    process.communicate()
    assert not (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "samples.npz").exists()
    assert list(tmp_path.glob(f"evaluation/*/{BLOCKS}"))
    output = done(alone(trained, tmp_path))
    first = next(e for e in events(output) if e["event"] == event)
    assert count <= first["done"] < first["total"], "what was done is not done again"
    metrics, pixels, _ = results(tmp_path)
    assert metrics == whole[0]
    assert np.array_equal(pixels, whole[1])
    assert not (tmp_path / "evaluation").exists()


def test_two_that_are_killed_are_finished_by_one(trained, whole, tmp_path):
    process = torchrun(*command(trained, tmp_path))
    read_until(process, "sampling", 40)
    ranks = [
        p
        for p in map(int, filter(str.isdecimal, os.listdir("/proc")))
        if str(tmp_path) in words_of(p) and p != process.pid
    ]
    assert len(ranks) == 2
    for rank in ranks:
        os.kill(rank, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (tmp_path / "metrics.json").exists()
    output = done(alone(trained, tmp_path))
    assert next(e for e in events(output) if e["event"] == "sampling")["done"] > 40, (
        "both had saved their share"
    )
    metrics, pixels, _ = results(tmp_path)
    assert metrics == whole[0]
    assert np.array_equal(pixels, whole[1])


def words_of(process):
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def test_one_of_two_that_dies_ends_the_evaluation(trained, tmp_path):
    process = torchrun(*command(trained, tmp_path))
    read_until(process, "sampling", 8)
    victim = next(
        p
        for p in map(int, filter(str.isdecimal, os.listdir("/proc")))
        if str(tmp_path) in words_of(p) and rank_of(p) == 1
    )
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "rank      : 1" in output
    assert not (tmp_path / "metrics.json").exists()


def rank_of(process):
    try:
        with open(f"/proc/{process}/environ", "rb") as file:
            variables = dict(v.partition(b"=")[::2] for v in file.read().split(b"\0"))
    except OSError:
        return None
    return int(variables[b"RANK"]) if b"RANK" in variables else None


def test_a_mistake_is_said_once_by_several(trained, tmp_path):
    process = torchrun(
        "lapflow.cli",
        "evaluate",
        trained,
        "evaluation.metrics=[kid]",
        "evaluation.samples=20",
        "--out",
        tmp_path / "out",
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert output.count("the subsets of the kernel distance do not fit") == 1, output
    assert not (tmp_path / "out").exists()


MANY = """
import sys
import torch
from pathlib import Path
from lapflow.core.solver import Statistics
from lapflow.evaluation.run import evaluate_run, evaluation_config
from lapflow.sampling.pipeline import Pipeline

memory = []

def draw(self, rows, **rest):
    memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6)
    generator = torch.Generator().manual_seed(rows.start)
    return torch.rand(len(rows), 1, 8, 8, generator=generator) * 2 - 1, Statistics(1, 0, 0)

Pipeline.draw = draw
run, out = map(Path, sys.argv[1:])
pipeline = Pipeline.load(run)
everything = "metrics=[frechet,kid,precision-recall,copies]"
changes = (everything, "kept=500", "kid={subsets: 5, subset_size: 300}", "classifier=null")
config = evaluation_config(pipeline.config, [f"evaluation.{change}" for change in changes])
settings = config.evaluation
evaluate_run(run, pipeline, num=50_000, batch_size=50, evaluation=settings, out=out, npz=out / "many.npz")
print(len(memory), max(memory[100:300]), max(memory[900:]))
"""


def test_many_samples_take_no_more_memory_than_few(trained, tmp_path):
    """What stays of a sample is its distance to the nearest training image, 8 bytes. Kept with their
    features, the 35,000 from the 15,000th on would be 27 MB."""
    arguments = [sys.executable, "-c", MANY, str(trained), str(tmp_path)]
    result = subprocess.run(
        arguments, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr[-3000:]
    batches, early, late = map(float, result.stdout.split()[-3:])
    assert batches == 1000
    assert late - early < 16, f"{early} MB up to 15,000 samples, {late} MB after 50,000"
    with np.load(tmp_path / "many.npz") as arrays:
        assert arrays["arr_0"].shape == (50_000, 8, 8, 1)
