"""A training process that keeps a record of what each step saw, and can be held up: what the campaign of
resumption kills.

    python -m tests.stress.recorded RECORDS RECIPE OUT [KEY=VALUE ...]

Alone, or under torchrun. RECORDS gets `rank-N.pid` and, a line a batch, `rank-N.jsonl`: the samples'
positions, and hashes of their images and of the generator from which the step's segments are drawn.
LAPFLOW_STRESS_PAUSE is a pause before each batch, in seconds; at LAPFLOW_STRESS_HOLD, a number of steps, the
process waits to be killed.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import torch

from lapflow.config.loading import load_config
from lapflow.training import step
from lapflow.training.checkpoint import replace_file
from lapflow.training.loop import train


def main() -> None:
    records, recipe, out, *overrides = sys.argv[1:]
    torch.set_num_threads(1)
    config = load_config(recipe, overrides)
    rank = os.environ.get("RANK", "0")
    Path(records).mkdir(parents=True, exist_ok=True)
    replace_file(Path(records) / f"rank-{rank}.pid", str(os.getpid()).encode())
    pause, hold = (
        float(os.environ.get("LAPFLOW_STRESS_PAUSE", 0)),
        int(os.environ.get("LAPFLOW_STRESS_HOLD", sys.maxsize)),
    )
    plain = step._loss

    def recorded(parts, model, batch, stage):
        line = {
            "positions": batch.positions,
            "images": _hash(batch.images),
            "stage": _hash(stage.get_state()),
        }
        with (Path(records) / f"rank-{rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(600 if batch.positions[0] // config.training.batch_size >= hold else pause)
        return plain(parts, model, batch, stage)

    step._loss = recorded
    train(config, Path(out))


def _hash(x: torch.Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    main()
