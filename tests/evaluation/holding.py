"""Run in several processes: what the first one really holds under each engine, beside what the engine says
(JSON to a file)."""

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from lapflow.plugins import create
from lapflow.training.ema import EMA


class Network(nn.Module):
    """Sizes that two processes cannot share evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = nn.ModuleList(nn.Linear(101, 101) for _ in range(3)), nn.Linear(101, 57)

    def forward(self, x):
        for unit in self.inside:
            x = unit(x).relu()
        return self.outside(x)


def size(tensors):
    """Bytes of tensors of float32, the local parts of those that are distributed. FSDP2's parts are padded to
    equal ones."""
    local = [x.to_local() if isinstance(x, DTensor) else x for x in tensors if x is not None]
    return sum(x.nbytes for x in local)


def held(spec):
    engine, model = create("engine", spec), Network()
    stated = engine.held(model, list(model.inside), 2)
    engine.start()
    call = engine.prepare(
        model, lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True), units=list(model.inside)
    )
    found = {}
    for _ in range(2):
        engine.backward(call([(torch.randn(2, 101),)])[0].square().mean())
        if spec["name"] == "torch" or spec["zero"] < 2:
            found["gradients"] = size(p.grad for p in model.parameters())
        if spec.get("zero") == 3:
            found["gradients"] = size([engine.optimizer.grad_partitions_flat_buffer])
        engine.step(1e-3)
    found["weights"] = size(engine.shards().values())
    found["average"] = size(EMA(engine.shards(), 0.9).shadow.values())
    if spec["name"] == "torch" or spec["zero"] == 0:
        state = engine.optimizer.state
    else:
        state = engine.optimizer.optimizer.state
        found["working copy"] = size(engine._flats())
    found["moments"] = size(x for of in state.values() for key, x in of.items() if key.startswith("exp_avg"))
    if getattr(engine, "ddp", None) is not None:
        found["buckets"] = sum(map(int, engine.ddp._get_ddp_logging_data()["bucket_sizes"].split(",")))
    engine.stop()
    return {"stated": {name: h.bytes for name, h in stated.items()}, "found": found}


def main():
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rows = {name: held(spec) for name, spec in json.loads(sys.argv[1]).items()}
    if torch.distributed.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(rows, indent=1))
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # as `lapflow.cli.program` ends


if __name__ == "__main__":
    main()
