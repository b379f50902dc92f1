"""Real processes that are stopped, killed, or meet a full disk: what is kept, what is said, how they end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lapflow.training.checkpoint import latest_checkpoint
from lapflow.training.events import read_events
from tests.backends.launching import environment, torchrun
from tests.training.runs import last

pytestmark = pytest.mark.xdist_group("processes")
RECIPE = [
    "lapflow-digits",
    "model.width=32",
    "model.heads=2",
    "model.depth=1",
    "training.batch_size=16",
    "training.log_every=1",
]
LONG = [*RECIPE, "training.steps=100000", "training.checkpoint_every=100000"]


def lapflow(*command, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "lapflow.cli", *map(str, command)],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {seconds} s"
        time.sleep(0.05)


def training(run, steps=3):
    """Waits until a run has logged some steps."""
    wait_for(lambda: sum(e["event"] == "train" for e in read_events(run)) >= steps, "training steps")


def step_logged(run):
    return max((e["step"] for e in read_events(run) if e["event"] == "train"), default=0)


def processes(run):
    """{process id: rank} of the processes that train in `run`, reading workers included."""
    found = {}
    for process in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with (
                open(f"/proc/{process}/cmdline", "rb") as file,
                open(f"/proc/{process}/environ", "rb") as also,
            ):
                words, variables = (
                    file.read().split(b"\0"),
                    dict(v.partition(b"=")[::2] for v in also.read().split(b"\0")),
                )
        except OSError:
            continue
        if str(run).encode() in words and b"RANK" in variables:
            found[int(process)] = int(variables[b"RANK"])
    return found


def parent(process):
    with open(f"/proc/{process}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def ranks(run):
    """{rank: process id} of the training processes themselves."""
    found = processes(run)
    return {rank: process for process, rank in found.items() if parent(process) not in found}


@pytest.fixture(autouse=True)
def none_left(tmp_path):
    """A test that fails leaves no process behind."""
    yield
    for process in processes(tmp_path / "run"):
        os.kill(process, signal.SIGKILL)


def steps_saved(run):
    return last(run).documents["state"]["step"]


def test_a_signal_finishes_the_step_saves_and_exits_and_the_same_command_goes_on(tmp_path):
    """A scheduler that requeues needs nothing else. Each signal stops what the one before left."""
    out, before = tmp_path / "run", 0
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        process = lapflow("train", *LONG, "--out", out)
        wait_for(lambda least=before + 3: step_logged(out) >= least, "training steps")
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 143, output
        assert "asked to stop" in output
        assert number.name in output
        resumed = [e["step"] for e in read_events(out) if e["event"] == "resume"]
        assert resumed[-1:] == ([before] if before else [])
        before = step_logged(out)
        assert steps_saved(out) == before


def test_a_signal_to_all_processes_of_a_run_saves_too(tmp_path):
    """As schedulers send it: the reading workers get it as well, and must not die before the run has
    saved."""
    command = [
        sys.executable,
        "-m",
        "lapflow.cli",
        "train",
        *LONG,
        "training.workers=2",
        "--out",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    training(tmp_path / "run")
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert steps_saved(tmp_path / "run") == read_events(tmp_path / "run")[-1]["step"]


@pytest.mark.parametrize("whom", ["rank 1", "launcher"])
def test_all_ranks_agree_to_stop(tmp_path, whom):
    """A signal to one rank stops all, at one step, with one checkpoint; one to the launcher is passed on."""
    process = torchrun("lapflow.cli", "train", *LONG, "--out", tmp_path / "run")
    training(tmp_path / "run")
    if whom == "rank 1":
        os.kill(ranks(tmp_path / "run")[1], signal.SIGUSR1)
    else:
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=90)
    assert process.returncode != 0
    events = read_events(tmp_path / "run")
    assert events[-1]["event"] == "stopped", output
    assert events[-1]["signal"] == ("SIGUSR1" if whom == "rank 1" else "SIGTERM")
    assert steps_saved(tmp_path / "run") == events[-1]["step"]
    if whom == "rank 1":
        assert "exitcode  : 143" in output


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_ends_the_run_and_is_named(tmp_path, rank):
    process = torchrun("lapflow.cli", "train", *LONG, "--out", tmp_path / "run")
    training(tmp_path / "run")
    os.kill(ranks(tmp_path / "run")[rank], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"rank      : {rank} (local_rank: {rank})" in output, output
    assert "SIGKILL" in output or "exitcode  : -9" in output
    assert not ranks(tmp_path / "run")


def test_a_worker_that_dies_ends_the_run_on_all_ranks(tmp_path):
    process = torchrun("lapflow.cli", "train", *LONG, "training.workers=1", "--out", tmp_path / "run")
    training(tmp_path / "run")
    of_rank_1 = [process for process, rank in processes(tmp_path / "run").items() if rank == 1]
    (worker,) = [process for process in of_rank_1 if parent(process) in of_rank_1]
    os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert output.count("a process that reads images died") == output.count("lapflow (rank 1)") == 1, output
    assert "(rank 0)" not in output
    assert steps_saved(tmp_path / "run") >= 3, "the others were told, and the steps taken so far are saved"


def test_a_mistake_is_said_once_by_several_processes(tmp_path):
    process = torchrun(
        "lapflow.cli", "train", *RECIPE, "training.steps=2", "flow.path=gpv", "--out", tmp_path / "run"
    )
    output, _ = process.communicate(timeout=60)
    assert output.count("lapflow (rank 0):") == 1, output
    assert "(rank 1)" not in output
    assert "gvp" in output
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    process = torchrun("lapflow.cli", "train", *RECIPE, "training.steps=2", "--out", tmp_path / "run")
    output, _ = process.communicate(timeout=60)
    assert output.count("in use") == 1, output


def test_a_full_disk_is_waited_for(tmp_path):
    """The state is kept in memory and written when there is room again; the checkpoint before stays whole all
    the while."""
    script = (
        "import resource, sys; from lapflow.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY)); main(sys.argv[1:])"
    )
    small = [*RECIPE, "training.steps=4", "training.checkpoint_every=2"]
    command = [
        sys.executable,
        "-c",
        script,
        "train",
        *small,
        "training.save_patience=60",
        "--out",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: any(e["event"] == "save_failed" for e in read_events(tmp_path / "run")), "failed save")
    assert latest_checkpoint(tmp_path / "run" / "checkpoints") is None
    subprocess.run(["prlimit", f"--pid={process.pid}", "--fsize=unlimited"], check=True)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert steps_saved(tmp_path / "run") == 4


def test_a_disk_that_stays_full_ends_the_run_with_the_checkpoint_before(tmp_path):
    out = tmp_path / "run"
    small = [*RECIPE, "training.steps=4", "training.checkpoint_every=2", "training.save_patience=0"]
    script = (
        "import resource, sys; from pathlib import Path; from lapflow.config.loading import load_config;"
        "from lapflow.training.loop import train\n"
        "def watch(event):\n"
        "    if event['event'] == 'checkpoint': resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, "
        "resource.RLIM_INFINITY))\n"
        "train(load_config(sys.argv[1], sys.argv[3:]), Path(sys.argv[2]), watch)"
    )
    command = [sys.executable, "-c", script, small[0], str(out), *small[1:]]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    assert "the checkpoint of step 4 could not be written" in result.stderr
    assert steps_saved(out) == 2
    assert [p.name for p in (out / "checkpoints").iterdir() if p.name.startswith(".")] == []


def test_a_logger_that_fails_does_not_stop_training(tmp_path):
    """A reader of the output that has gone, and a log file that cannot be written, are said once on stderr
    each."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "lapflow.cli", "train", *RECIPE, "training.steps=300", "--out", str(out)]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert json.loads(process.stdout.readline())["event"] == "start"
    process.stdout.close()
    training(out)
    (out / "log.jsonl").unlink()
    (out / "log.jsonl").mkdir()
    said = process.stderr.read()
    assert process.wait(timeout=60) == 0, said
    assert steps_saved(out) == 300
    assert (
        said.count("the progress shown cannot be written") == said.count("log.jsonl cannot be written") == 1
    ), said


def test_deepspeed_s_launcher(tmp_path):
    """The command of docs/scale.md, on two CPU processes."""
    launcher = Path(sys.executable).with_name("deepspeed")
    few = [
        *RECIPE,
        "training.steps=3",
        "flow.intervals.segment_sampling=balanced",
        "engine={name: deepspeed, zero: 2}",
    ]
    command = [
        launcher,
        "--no_local_rank",
        "--num_accelerators",
        "2",
        "--module",
        "lapflow.cli",
        "train",
        *few,
        "--out",
        tmp_path / "run",
    ]
    paths = {"PATH": f"{launcher.parent}{os.pathsep}{os.environ['PATH']}", "DS_ACCELERATOR": "cpu"}
    result = subprocess.run(
        list(map(str, command)), env=environment(**paths), capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert steps_saved(tmp_path / "run") == 3


def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(tmp_path):
    # Few lines: nobody reads what the first one says, and its pipe must not fill.
    first = lapflow("train", *LONG, "training.log_every=100", "--out", tmp_path / "run")
    training(tmp_path / "run")
    second = lapflow("train", *LONG, "training.log_every=100", "--out", tmp_path / "run")
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "another process trains in" in output
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=60) == 143
    assert steps_saved(tmp_path / "run") == read_events(tmp_path / "run")[-1]["step"]
