"""Runs on several real processes: what torchrun starts, and what the tests start it with."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**more):
    """One thread a process, and none of the variables of a run that this one may be part of."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    }
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), **more}


def torchrun(*command, processes=2, **more):
    """Start `command` (a module and its arguments) in several processes of this machine; the Popen of the
    agent."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        "--max-restarts=0",
        "-m",
    ]
    return subprocess.Popen(
        [*launcher, *map(str, command)],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_all(jobs, processes=2, uncured=(), **more):
    """Train each of `jobs` (recipe, overrides, folder), one after the other in the same processes; their
    output. Those of `uncured` are trained without our cure of DeepSpeed's stale gradients."""
    process = torchrun(
        "tests.backends.launching",
        json.dumps(
            [
                [r, list(o), str(f), cured]
                for some, cured in ((jobs, True), (uncured, False))
                for r, o, f in some
            ]
        ),
        processes=processes,
        **more,
    )
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-6000:]
    return output


def make_infinite(positions):
    """From now on the loss of a batch that holds one of these positions of the data order is infinite."""
    from lapflow.training import step

    loss_of = step._loss

    def infinite(parts, model, batch, stage):
        loss, named = loss_of(parts, model, batch, stage)
        return (loss * float("inf") if positions & set(batch.positions) else loss), named

    step._loss = infinite


def main():
    import torch

    from lapflow.config.loading import load_config
    from lapflow.training.dry_run import dry_run
    from lapflow.training.loop import train
    from tests.training import critic, probes

    critic.make_known()
    probes.make_known()
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")  # the engines join the group that is there
    from lapflow.backends.engines.deepspeed import DeepSpeedEngine

    whole = DeepSpeedEngine._config

    def config(engine):
        """Small weights are sharded too: DeepSpeed keeps those below 100,000 elements in every process."""
        found = whole(engine)
        found["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return found

    DeepSpeedEngine._config = config
    forget = DeepSpeedEngine._forget
    if position := os.environ.get("LAPFLOW_TEST_INFINITE"):
        make_infinite({int(position)})
    jobs = json.loads(sys.argv[1])
    for recipe, overrides, folder, cured in jobs:
        DeepSpeedEngine._forget = forget if cured else lambda engine: None
        train(load_config(recipe, overrides), Path(folder))
    balanced = [job for job in jobs if job[2].endswith("balanced")]
    for recipe, overrides, *_ in balanced[:1]:
        if (found := dry_run(load_config(recipe, overrides))) is not None:
            print(found)
    sys.stdout.flush()
    os._exit(0)  # as `lapflow.cli.program` ends: the group's threads may abort a process that tears down


if __name__ == "__main__":
    main()
